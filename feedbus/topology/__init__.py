"""The topology as immutable dataclasses: exchanges, queues, shards, consumers and processes."""

from feedbus.topology.consumers import Consumer
from feedbus.topology.exchanges import Exchange
from feedbus.topology.generation import DECLARED, MAX_BUCKETS, NO_DELIVERY_LIMIT, Generation
from feedbus.topology.processes import (
    OPERATIONS,
    OPERATIONS_PORT,
    Logging,
    Operations,
    Process,
)
from feedbus.topology.queues import (
    HANDLER_TIMEOUT_SECONDS,
    PREFETCH,
    Batch,
    DeadLetters,
    Queue,
    RetryPolicy,
)
from feedbus.topology.schedules import Schedule
from feedbus.topology.store_options import (
    KEEP_HANDLED_SECONDS,
    PEEWEE,
    SESSIONS,
    SQLALCHEMY,
    StoreOptions,
)
from feedbus.topology.topology import Topology

__all__ = [
    "DECLARED",
    "HANDLER_TIMEOUT_SECONDS",
    "KEEP_HANDLED_SECONDS",
    "MAX_BUCKETS",
    "NO_DELIVERY_LIMIT",
    "OPERATIONS",
    "OPERATIONS_PORT",
    "PEEWEE",
    "PREFETCH",
    "SESSIONS",
    "SQLALCHEMY",
    "Batch",
    "Consumer",
    "DeadLetters",
    "Exchange",
    "Generation",
    "Logging",
    "Operations",
    "Process",
    "Queue",
    "RetryPolicy",
    "Schedule",
    "StoreOptions",
    "Topology",
]
