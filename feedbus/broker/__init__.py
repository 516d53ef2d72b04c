"""Speak to a broker: connect, declare what a topology says, know which rings are current."""

from feedbus.broker.connecting import (
    close,
    connect,
    connection_errors,
    drop,
    load_transport,
    locked,
    outage,
)
from feedbus.broker.entities import (
    consumers,
    count,
    declare,
    declare_delay,
    declare_ring,
    exchange_exists,
    queue_exists,
)

__all__ = [
    "close",
    "connect",
    "connection_errors",
    "consumers",
    "count",
    "declare",
    "declare_delay",
    "declare_ring",
    "drop",
    "exchange_exists",
    "load_transport",
    "locked",
    "outage",
    "queue_exists",
]
