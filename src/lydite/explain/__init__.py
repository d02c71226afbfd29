"""Why an image got its score: patch-score maps, and their picture. Nothing here needs torch."""
