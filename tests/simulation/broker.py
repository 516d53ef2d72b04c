"""A broker in memory whose connections go through a network with faults."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from feedbus.transports.memory.broker import MemoryBroker, NoUpkeep, Pairs, Presence
from feedbus.transports.sqlite.backend import Backend
from feedbus.transports.sqlite.ports import NEWS
from tests.simulation.clock import SimulatedClock
from tests.simulation.connection import SimulatedConnection
from tests.simulation.network import Network
from tests.simulation.scheduler import Scheduler


class Bell(Pairs):
    """A bell that also shows whether it was rung."""

    rung = False

    def ring(self, owners: Iterable[int], meaning: bytes = NEWS) -> None:
        """Ring the bells of others, in the order of their ids."""
        for owner in sorted(owners):
            bell = self._broker.own_bells.get(owner)
            if bell is not None:
                bell.rung = True
            super().ring((owner,), meaning)

    def listen(self, owner: int) -> None:
        """Receive what is sent to a connection."""
        super().listen(owner)
        self._broker.own_bells[owner] = self

    def silence(self) -> set[bytes]:
        """Take what has arrived."""
        self.rung = False
        return super().silence()


class SimulatedBroker(MemoryBroker):
    """A broker in memory whose connections go through a network."""

    def __init__(self, name: str, network: Network, prepared: bytes | None) -> None:
        """Hold what a prepared broker held."""
        self.network = network
        self.own_bells: dict[int, Bell] = {}
        self.connection_type = SimulatedConnection
        super().__init__(name, clock=SimulatedClock(network.scheduler), prepared=prepared)
        self.random = network.scheduler.random

    def open(self) -> Backend:
        """Return what a new connection works with."""
        self.network.scheduler.step("connects")
        if self.network.down:
            msg = "connection refused"
            raise ConnectionRefusedError(msg)
        bell = Bell(self)
        link: list[SimulatedConnection] = []

        def woken() -> bool:
            return bell.rung or not link[0].connected

        clock = LinkClock(self.network.scheduler, woken, link)
        backend = Backend(self.tables, clock, self.random, bell, Presence(self), NoUpkeep())
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
