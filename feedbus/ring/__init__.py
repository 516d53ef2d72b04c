"""Compute, without the broker, where RabbitMQ's x-consistent-hash exchange routes a message.

A ring is a sequence of buckets, numbered from 0. Each queue has one run of neighbouring buckets, as
many as its weight, in the order in which the queues were bound. The hash of a routing key and the
number of buckets select a bucket.
"""

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
