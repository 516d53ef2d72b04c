"""Dead letters: read, sent back, purged, and dropped by age and number."""
