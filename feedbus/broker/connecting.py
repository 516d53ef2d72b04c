"""Open a connection to the broker of a topology, and hold the topology's lock there."""

from __future__ import annotations

from contextlib import AbstractContextManager

from kombu.connection import Connection

from feedbus.broker.interface import HeartbeatSource
from feedbus.broker.kinds import select_broker
from feedbus.broker.locks import WAIT_SECONDS
from feedbus.clock import Clock
from feedbus.topology import Topology
from feedbus.wire import amqp_protocols


def connect(
    topology: Topology, heartbeats: HeartbeatSource = HeartbeatSource.BACKGROUND
) -> Connection:
    """Return an open connection to the topology's broker: to the first node that answers.

    Args:
        topology: the topology with the URL of the broker.
        heartbeats: which code sends the heartbeats of the connection.

    Raises:
        BrokerOutage: the broker cannot be reached, or refuses the login.

    """
    return select_broker(topology).connect(heartbeats)


def clock(topology: Topology) -> Clock:
    """Return the clock by which all users of the topology's broker wait and measure times.

    This is the system's clock; a broker in memory can have a virtual one.
    """
    return select_broker(topology).clock


def load_transport(topology: Topology) -> None:
    """Import the modules that connect() needs, without connecting.

    The process that forks the consumers calls it, so that the consumers start faster.
    """
    select_broker(topology).load()


def locked(
    connection: amqp_protocols.Connection,
    topology: Topology,
    *,
    wait_seconds: float = WAIT_SECONDS,
) -> AbstractContextManager[None]:
    """Hold the topology's lock on the broker during a `with` block.

    A process that changes the topology's objects on the broker needs the lock. If the process that
    holds the lock is killed, the broker releases the lock.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        wait_seconds: how long to wait if another process holds the lock. A consumer uses 0, because
            it must continue to handle messages; the consumer tries again later.

    Raises:
        UsageError: another process holds the lock for longer than wait_seconds.
    """
    return select_broker(topology).locked(connection, topology.name, wait_seconds)


def refusal(topology: Topology) -> str:
    """Return why the topology's broker accepts no messages now, or "" if it accepts messages.

    For example, RabbitMQ is short of memory or disk space. The operations process and `feedbus
    status` call it.

    Raises:
        BrokerOutage: the broker is unavailable.
    """
    return select_broker(topology).refusal()


def queue_written_seconds(topology: Topology) -> float:
    """Return how long a queue can be missing on the broker's disk after it was declared.

    0 for every broker except RabbitMQ. If RabbitMQ is killed in this time, confirmed messages of
    the queue can be lost.
    """
    return select_broker(topology).queue_written_seconds


def has_many_hosts(topology: Topology) -> bool:
    """Whether consumers of several hosts can use the topology's broker."""
    return select_broker(topology).has_many_hosts


def in_flight_seconds(topology: Topology) -> float:
    """Return how long a message that the broker has routed can take to arrive in its queue.

    0 for every broker except RabbitMQ.
    """
    return select_broker(topology).in_flight_seconds
