"""Turning results into pictures, tables and one offline HTML page; nothing is measured here."""
