"""A broker in memory whose connections go through a network with faults."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from feedbus.transports.memory.broker import (
    LiveConnections,
    MemoryBroker,
    NoMaintenance,
    WakeUpSocketPairs,
)
from feedbus.transports.sqlite.backend_interfaces import NEWS
from feedbus.transports.sqlite.connection_backend import Backend
from tests.simulation.clock import SimulatedClock
from tests.simulation.connection import SimulatedConnection
from tests.simulation.network import Network
from tests.simulation.scheduler import Scheduler


class RecordedWakeUps(WakeUpSocketPairs):
    """The wake-ups of a connection; `arrived` shows whether one was sent to it."""

    arrived = False

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake other connections, in the order of their ids."""
        for connection_id in sorted(connection_ids):
            wake_ups = self._broker.own_wake_ups.get(connection_id)
            if wake_ups is not None:
                wake_ups.arrived = True
            super().wake((connection_id,), meaning)

    def listen(self, connection_id: int) -> None:
        """Start to receive the wake-ups of a connection."""
        super().listen(connection_id)
        self._broker.own_wake_ups[connection_id] = self

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived."""
        self.arrived = False
        return super().read()


class SimulatedBroker(MemoryBroker):
    """A broker in memory whose connections go through a network."""

    def __init__(self, name: str, network: Network, prepared: bytes | None) -> None:
        """Begin with the content of a prepared broker."""
        self.network = network
        self.own_wake_ups: dict[int, RecordedWakeUps] = {}
        self.connection_type = SimulatedConnection
        super().__init__(name, clock=SimulatedClock(network.scheduler), prepared=prepared)
        self.random = network.scheduler.random

    def consumers(self) -> list[tuple[int]]:
        """Return the connection of each subscription."""
        return self.tables.database.execute("SELECT owner FROM consumers").fetchall()

    def subscriptions(self) -> list[tuple[int, int, str]]:
        """Return the id, the connection and the queue of each subscription to a queue of records.

        Queues of dead letters, and those of the hosts' announcements, are not among them.
        """
        return self.tables.read(
            "SELECT consumers.id, consumers.owner, name FROM consumers"
            " JOIN queues ON queues.id = queue"
            " WHERE name LIKE 'simulated.shard%' OR name LIKE 'simulated.work%'"
            " OR name LIKE 'simulated.middle%'"
            " ORDER BY consumers.id"
        )

    def dead_letters(self) -> list[tuple[dict[str, Any], str, str, bytes]]:
        """Return the headers, the content type, the id and the body of each dead letter."""
        rows = self.tables.read(
            "SELECT properties, body FROM ready JOIN queues ON queues.id = queue"
            " JOIN messages ON messages.id = message WHERE name LIKE '%.dead' ORDER BY message"
        )
        found = [(json.loads(properties), body) for properties, body in rows]
        return [
            (
                properties.get("application_headers") or {},
                properties.get("content_type", ""),
                properties.get("message_id", ""),
                body,
            )
            for properties, body in found
        ]

    def open(self) -> Backend:
        """Return the backend of a new connection."""
        self.network.scheduler.step("connects")
        if self.network.down:
            msg = "connection refused"
            raise ConnectionRefusedError(msg)
        wake_ups = RecordedWakeUps(self)
        link: list[SimulatedConnection] = []

        def woken() -> bool:
            return wake_ups.arrived or not link[0].connected

        clock = LinkClock(self.network.scheduler, woken, link)
        backend = Backend(
            self.tables, clock, self.random, wake_ups, LiveConnections(self), NoMaintenance()
        )
        clock.backend_of = self
        return backend


class LinkClock(SimulatedClock):
    """The clock of one connection, whose waits for the broker end when it is cut."""

    backend_of: SimulatedBroker

    def __init__(self, scheduler: Scheduler, woken: Any, link: list[Any]) -> None:
        """Watch a connection that is put into the list when it is made."""
        super().__init__(scheduler, woken)
        self.link = link

    def check_open(self) -> None:
        """Raise an error where the connection is cut, as a socket does."""
        self.link[0].check_open()
