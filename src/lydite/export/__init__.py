"""From a detector to the file that a phone, a browser or a server runs, and proof that it fits."""
