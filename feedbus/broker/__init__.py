"""Functions on a broker: connect, declare a topology, and look up exchanges and queues."""

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
from feedbus.broker.declarations import declare, declare_retry_queue, declare_ring
from feedbus.broker.interface import HeartbeatSource
from feedbus.broker.lookups import count_consumers, count_messages, exchange_exists, queue_exists
from feedbus.broker.outages import close, connection_errors, drop_connection, outage

__all__ = [
    "Connection",
    "HeartbeatSource",
    "clock",
    "close",
    "connect",
    "connection_errors",
    "count_consumers",
    "count_messages",
    "declare",
    "declare_retry_queue",
    "declare_ring",
    "drop_connection",
    "exchange_exists",
    "has_many_hosts",
    "in_flight_seconds",
    "load_transport",
    "locked",
    "outage",
    "queue_exists",
    "refusal",
]
