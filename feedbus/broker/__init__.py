"""The broker: connections, declarations of a topology, and lookups of its objects."""

from kombu.connection import Connection

from feedbus.broker.connecting import (
    clock,
    connect,
    has_many_hosts,
    in_flight_seconds,
    load_transport,
    locked,
    refusal,
)
from feedbus.broker.declarations import declare, declare_delay, declare_ring
from feedbus.broker.interface import HeartbeatSource
from feedbus.broker.lookups import consumers, count, exchange_exists, queue_exists
from feedbus.broker.outages import close, connection_errors, drop, outage

__all__ = [
    "Connection",
    "HeartbeatSource",
    "clock",
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
    "has_many_hosts",
    "in_flight_seconds",
    "load_transport",
    "locked",
    "outage",
    "queue_exists",
    "refusal",
]
