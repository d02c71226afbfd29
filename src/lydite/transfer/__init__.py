"""Transfer: what teaches a detector another generator."""
