"""Images and tables of images: decoding, manifests, preprocessing."""
