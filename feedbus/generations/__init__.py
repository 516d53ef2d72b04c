"""The generations of a ring: which is current, the switch to the next, the end of those before."""
