"""The spread of given keys over a ring, and weights that make it more even."""
