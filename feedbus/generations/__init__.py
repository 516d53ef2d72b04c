"""The generations of a ring: the current one, the switch to the next, the end of old ones."""
