"""The generations of a ring: the current one, the switch to the next, and the end of old ones."""
