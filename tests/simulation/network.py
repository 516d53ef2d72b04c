"""A broker in memory behind a network with faults: late, lost and reordered answers, and cuts.

What a client sends on one connection arrives in order, in portions; connections overtake each
other. A confirm may come late, alone, or after later ones. An acknowledgement may still be on its
way when its connection is cut, and is lost then. A cut may come before or after the broker has
carried out what was asked, so the client does not know which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from amqp.exceptions import PreconditionFailed

from feedbus.transports.memory.broker import MemoryBroker, NoUpkeep, Pairs, Presence
from feedbus.transports.sqlite.backend import Backend
from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.confirms import Confirm, Outcome, Returned
from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.owners import take_out
from feedbus.transports.sqlite.ports import NEWS
from feedbus.transports.sqlite.transactions import Transaction
from tests.simulation.clock import SimulatedClock
from tests.simulation.scheduler import SECONDS, Process, Scheduler


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


class Network:
    """What happens between the processes and the broker."""

    def __init__(self, scheduler: Scheduler) -> None:
        """Be without faults until `faulty` is set."""
        self.scheduler = scheduler
        self.faulty = False
        self.down = False
        self.links: list[SimulatedConnection] = []
        self.refused_acknowledgements: list[str] = []

    def chance(self, share: float) -> bool:
        """Whether a fault happens now that happens in a share of the cases."""
        return self.faulty and self.scheduler.random.random() < share

    def linger(self) -> None:
        """Let a change of exchanges, queues or bindings stand alone for a while, now and then."""
        scheduler = self.scheduler
        if self.chance(0.3):
            seconds = scheduler.random.choice((0.01, 0.3, 2.0))
            scheduler.wait("is slow", until=scheduler.now + int(seconds * SECONDS))

    def open_links(self) -> list[SimulatedConnection]:
        """Return the connections that the broker knows."""
        self.links = [each for each in self.links if each.connected]
        return self.links

    def confirm_seconds(self) -> float:
        """Return how long an answer takes to come back."""
        chosen = self.scheduler.random
        if not self.faulty or chosen.random() < 0.7:
            return 0.0
        return chosen.choice((0.001, 0.05, 1.0, 3.0, 12.0, 40.0))


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


class SimulatedChannel(Channel):
    """A channel whose frames take their time."""

    def _start(self) -> None:
        super()._start()
        self.answers_at: int | None = None
        self._unsent: list[tuple[int, bool]] = []

    @property
    def _network(self) -> Network:
        return self._link.network

    def flush(self) -> None:
        """Send what is buffered, in portions."""
        self.send_acknowledgements()
        while self._outgoing:
            link = self._link
            network = link.network
            size = len(self._outgoing)
            if network.faulty and size > 1:
                size = network.scheduler.random.randint(1, size)
            if network.chance(0.02):
                link.cut("while messages are on their way")
            later = self._outgoing[size:]
            del self._outgoing[size:]
            super().flush()
            self._outgoing[:0] = later

    def report(self) -> bool:
        """Report answers that have come back by now."""
        if not self._unreported:
            return False
        network = self._network
        now = network.scheduler.now
        if self.answers_at is None:
            self.answers_at = now + int(network.confirm_seconds() * SECONDS)
        if now < self.answers_at:
            return False
        self.answers_at = None
        if network.faulty:
            self._unreported = self._rearranged(self._unreported)
            size = network.scheduler.random.randint(1, len(self._unreported))
        else:
            size = len(self._unreported)
        reported, self._unreported = self._unreported[:size], self._unreported[size:]
        for outcome in reported:
            network.scheduler.note(f"hears {_shown(outcome)}")
            outcome.report(self.events)
        return True

    def _rearranged(self, outcomes: list[Outcome]) -> list[Outcome]:
        """Return answers in another order that a broker may choose: each message is by itself."""
        returned = [each for each in outcomes if isinstance(each, Returned)]
        waiting = getattr(self, "_answered", 0)
        single: list[Outcome] = []
        for each in outcomes:
            if isinstance(each, Confirm):
                first = waiting + 1 if each.multiple else each.tag
                nacked = {
                    one.tag for one in outcomes if isinstance(one, Confirm) and not one.multiple
                }
                tags = list(range(first, each.tag + 1))
                if each.multiple:
                    tags = [tag for tag in tags if tag not in nacked]
                single += [Confirm(each.event, tag, multiple=False) for tag in tags]
                waiting = max(waiting, each.tag)
        self._answered = waiting
        self._network.scheduler.random.shuffle(single)
        return [*returned, *single]

    def basic_ack(self, delivery_tag: int, multiple: bool = False) -> None:
        """Send an acknowledgement, which may stay on its way for a while."""
        link = self.connection
        if link is None or not link.connected:
            return  # written to a dead socket
        link.network.scheduler.step(f"acknowledges {delivery_tag}{' and before' * multiple}")
        if self.connection is None or not link.connected:
            return
        self._unsent.append((delivery_tag, multiple))
        if link.network.chance(0.2):
            seconds = link.network.scheduler.random.choice((0.001, 0.1, 2.0))
            link.network.scheduler.after(seconds, self.send_acknowledgements)
        else:
            self.send_acknowledgements()

    def send_acknowledgements(self) -> None:
        """Let acknowledgements that are on their way arrive."""
        link = self.connection
        if link is None or not link.connected:
            return
        unsent, self._unsent = self._unsent, []
        for tag, multiple in unsent:
            with link.without_turns():
                try:
                    super().basic_ack(tag, multiple)
                except PreconditionFailed as error:
                    link.network.refused_acknowledgements.append(str(error))
                    link.cut("protocol error")
                    return


def _shown(outcome: Outcome) -> str:
    if isinstance(outcome, Returned):
        return "a message comes back"
    return f"{outcome.event} {outcome.tag}{' and before' * outcome.multiple}"


class SimulatedConnection(Connection):
    """A connection that can be cut."""

    channel_type = SimulatedChannel

    def __init__(self, backend: Backend, **options: Any) -> None:
        """Belong to the process whose turn it is."""
        super().__init__(backend, **options)
        clock: Any = backend.clock
        clock.link.append(self)
        self.network: Network = clock.backend_of.network
        self.cut_after_next = False
        self._turnless = self._leaving = False
        self.process: Process | None = self.network.scheduler.current
        self.network.links.append(self)
        if self.process is not None:
            self.process.at_death.append(self._on_death)

    @contextmanager
    def without_turns(self) -> Iterator[None]:
        """Do what the block does at once."""
        before, self._turnless = self._turnless, True
        try:
            yield
        finally:
            self._turnless = before

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Transaction]:
        """Ask something of the broker: another process may be first, and the answer may be lost."""
        if not self._turnless:
            for channel in list(self.channels.values()):
                channel.send_acknowledgements()
            self.network.scheduler.step("asks the broker")
            self.check_open()
        with super().write(durable=durable) as tx:
            yield tx
        if tx.topology_changed and not self._turnless:
            self.network.linger()
        if self.cut_after_next and not self._turnless:
            self.cut("after the broker has done what was asked")
            self.check_open()

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for what comes, confirms that are on their way included."""
        self.check_open()
        self.network.scheduler.step("reads")
        self.check_open()
        now = self.network.scheduler.now
        dues = [
            channel.answers_at
            for channel in self.channels.values()
            if channel.answers_at is not None
        ]
        wait = max(min(dues) - now, 0) / SECONDS if dues else None
        if wait is None or (timeout is not None and timeout <= wait):
            super().drain_events(timeout)
            return
        try:
            super().drain_events(wait)
        except TimeoutError:
            super().drain_events(None if timeout is None else timeout - wait)

    def take_arrived(self) -> None:
        """Notice at once that the connection is cut, as a socket shows it."""
        self.check_open()
        self.network.scheduler.step("looks")
        self.check_open()
        super().take_arrived()

    def cut(self, why: str) -> None:
        """End the connection: the broker takes back what it delivered, the client will see it."""
        if not self.connected:
            return
        self.network.scheduler.note(f"CONNECTION {self.owner} IS CUT: {why}")
        chosen = self.network.scheduler.random
        for channel in list(self.channels.values()):
            if chosen.random() < 0.5:  # these frames were there already
                with suppress(Exception):
                    channel.send_acknowledgements()
        if not self.connected:
            return
        with self.without_turns():
            if self.owner is not None:
                with Connection.write(self) as tx:
                    take_out(tx, self.owner)
            self.collect()

    def close(self) -> None:
        """Close the connection in good order, unless its process is dead."""
        if self.process is not None and self.process.dead:
            return
        self._leaving = True
        super().close()

    def collect(self) -> None:
        """Let go of everything; the broker notices."""
        if self.process is not None and self.process.dead and not self._turnless:
            return
        if self.connected and self.owner is not None and not (self._turnless or self._leaving):
            self.cut("dropped by its client")
            return
        super().collect()

    def _on_death(self, killed: bool) -> None:
        """Let the broker notice: at once, or as late as a host that is gone."""
        if not self.connected:
            return
        chosen = self.network.scheduler.random
        if killed and self.network.faulty and chosen.random() < 0.2:
            seconds = chosen.choice((5.0, 40.0))
            self.network.scheduler.after(seconds, lambda: self.cut("no heartbeats"))
        else:
            self.cut("its process has ended")
