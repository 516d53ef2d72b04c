"""Dead letters: read, requeued, purged, and deleted by age and number."""
