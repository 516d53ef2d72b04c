"""Where RabbitMQ's x-consistent-hash exchange places a message, told without asking it."""

from feedbus.ring.hashing import phash2
from feedbus.ring.moving import flows, share_moved
from feedbus.ring.placing import Ring

__all__ = ["Ring", "flows", "phash2", "share_moved"]
