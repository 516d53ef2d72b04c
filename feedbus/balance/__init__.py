"""Where given keys go on a ring, and the weights that even them out."""
