"""Compute where an x-consistent-hash exchange of RabbitMQ routes a message, without the broker."""

from feedbus.ring.even_weights import Balance, frontier, key_class, placer
from feedbus.ring.evenness import max_over_share
from feedbus.ring.moved_keys import flows
from feedbus.ring.phash2 import phash2
from feedbus.ring.placement import Ring

__all__ = [
    "Balance",
    "Ring",
    "flows",
    "frontier",
    "key_class",
    "max_over_share",
    "phash2",
    "placer",
]
