"""Steps that make a detector smaller, one file each, with the pure functions under them."""
