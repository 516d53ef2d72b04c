"""Dead letters: read, requeued, dropped, and deleted by age and number."""
