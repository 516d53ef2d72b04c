"""List, requeue and delete dead letters; delete them by age and number."""
