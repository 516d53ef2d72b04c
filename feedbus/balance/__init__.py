"""Predict how keys spread over a ring, and find weights that spread them more evenly."""
