"""A broker in this process's memory, for tests."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from kombu.connection import Connection

from feedbus.broker.connection_without_reconnect import SingleConnection
from feedbus.broker.embedded import survey_of_rows
from feedbus.broker.interface import HeartbeatSource, Survey
from feedbus.broker.locks import hold_queue
from feedbus.broker.outages import open_connection
from feedbus.broker_names import lock_queue
from feedbus.clock import Clock
from feedbus.transports import memory
from feedbus.transports.memory.broker import find
from feedbus.urls import BrokerUrl
from feedbus.wire import amqp_protocols


@dataclass(frozen=True, slots=True)
class InMemoryBroker:
    """Implements the interface Broker for a broker in this process's memory; tests use it.

    Attributes:
        url: the URL of the broker in the topology.
        name: the name of the broker in memory.
        has_many_hosts: is False, because only this process can use the broker.
        in_flight_seconds: is 0, because a routed message is in its queue immediately.
        queue_written_seconds: is 0, because a broker in memory has no disk.
    """

    url: BrokerUrl
    name: str
    has_many_hosts: bool = False
    in_flight_seconds: float = 0.0
    queue_written_seconds: float = 0.0

    @property
    def clock(self) -> Clock:
        """The clock of the broker; if there is no broker with this name, it is created."""
        return find(self.name).clock

    def load(self) -> None:
        """Do nothing: this module has imported the transport."""

    def connect(self, heartbeats: HeartbeatSource) -> Connection:
        """Open a connection; create the broker if there is none with its name.

        Args:
            heartbeats: ignored, because a broker in memory needs no heartbeats.
        """
        del heartbeats
        return open_connection(
            SingleConnection(transport=memory.Transport, virtual_host=self.name), self.url
        )

    def locked(
        self, connection: amqp_protocols.Connection, project: str, wait_seconds: float
    ) -> AbstractContextManager[None]:
        """Hold the project's lock in a `with` block: a queue that is exclusive to the connection.

        Args:
            connection: the connection that gets the lock.
            project: the name of the project.
            wait_seconds: how long to wait if another connection holds the lock.

        Raises:
            UsageError: another connection holds the lock for longer than wait_seconds.
        """
        return hold_queue(connection, lock_queue(project), self.clock, wait_seconds)

    def survey(self, prefixes: tuple[str, ...]) -> Survey:
        """Return all exchanges, queues and bindings of the broker; the prefixes are ignored."""
        del prefixes
        return survey_of_rows(find(self.name).survey())

    def refusal(self) -> str:
        """Return "": a broker in memory never blocks publishers."""
        return ""
