"""feedbus."""
