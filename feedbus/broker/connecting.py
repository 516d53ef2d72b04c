"""Connect to a topology's broker, whichever kind it is, and hold the topology's lock there."""

from __future__ import annotations

from contextlib import AbstractContextManager

from kombu.connection import Connection

from feedbus.broker.kinds import broker_of
from feedbus.clock import Clock
from feedbus.topology import Topology
from feedbus.wire import amqp


def connect(topology: Topology, *, beating: bool = False) -> Connection:
    """Return an open connection to the topology's broker: to the first node that answers.

    Args:
        topology: whose broker.
        beating: True for a caller that sends heartbeats; the broker then drops the connection
            when they stop. Others are found dead by TCP alone.

    Raises:
        BrokerOutage: the broker cannot be reached, or does not let us in.

    """
    return broker_of(topology).connect(beating=beating)


def clock(topology: Topology) -> Clock:
    """Return the clock by which everybody who uses the topology's broker waits."""
    return broker_of(topology).clock


def load_transport(topology: Topology) -> None:
    """Import what connect() will need, without connecting."""
    broker_of(topology).load()


def locked(connection: amqp.Connection, topology: Topology) -> AbstractContextManager[None]:
    """Hold the lock under which rings are switched; it is released when its holder dies.

    Raises:
        UsageError: somebody else holds it for longer than ten seconds.

    """
    return broker_of(topology).locked(connection, topology.name)


def refusal(topology: Topology) -> str:
    """Return why the topology's broker takes no messages now, "" when it does.

    Raises:
        BrokerOutage: the broker is unavailable.

    """
    return broker_of(topology).refusal()


def queue_written_seconds(topology: Topology) -> float:
    """Return how long a new queue may take to reach the disk after the broker has confirmed it."""
    return broker_of(topology).queue_written_seconds


def in_flight_seconds(topology: Topology) -> float:
    """Return how long a broker may take to put a message into the queue that it was placed in."""
    return broker_of(topology).in_flight_seconds
