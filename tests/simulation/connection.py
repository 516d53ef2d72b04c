"""A connection that faults of the network and the end of its process cut."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from feedbus.transports.sqlite.claimed_messages import ClaimedMessages
from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.connection_backend import Backend
from feedbus.transports.sqlite.consumers import Arrival, Consumer
from feedbus.transports.sqlite.delivery_owners import end_consumer, remove
from feedbus.transports.sqlite.queued_messages import put_back
from feedbus.transports.sqlite.transactions import Transaction
from tests.simulation.channel import SimulatedChannel
from tests.simulation.network import Network
from tests.simulation.scheduler import SECONDS, Process

LATE_DELIVERIES = 0.03  # of the deliveries that are sent together: they arrive late
LATE_SECONDS = (0.05, 0.5, 2.0)
ALL_LATE_SHARE = 0.5  # otherwise, those of one queue are late


class LateMessages(ClaimedMessages):
    """Deliveries that the broker has sent, and that may stay on their way for a while."""

    _link: SimulatedConnection

    def __init__(self, link: SimulatedConnection) -> None:
        """Create the object; no delivery is on its way."""
        super().__init__(link)
        # By consumer: when deliveries that are on their way arrive, and the first of them. Those of
        # other consumers can overtake them.
        self._late: dict[Consumer, tuple[int, Arrival]] = {}

    def fetch(self) -> bool:
        """Let the broker send messages, of which some arrive later now and then."""
        count = len(self._arrivals)
        found = super().fetch()
        network = self._link.network
        is_late = found and network.chance(LATE_DELIVERIES)
        if not found or not (network.slow_queues or is_late):
            return found
        sent: dict[Consumer, list[Arrival]] = {}
        for each in islice(self._arrivals, count, None):
            if each.consumer is not None:
                sent.setdefault(each.consumer, []).append(each)
        if network.slow_queues:
            self._delay({each: self._slow_until(each) for each in sent}, sent)
        if is_late:
            chosen = network.scheduler.random
            late = sent if chosen.random() < ALL_LATE_SHARE else [chosen.choice([*sent])]
            until = network.scheduler.now + int(chosen.choice(LATE_SECONDS) * SECONDS)
            self._delay(dict.fromkeys(late, until), sent)
        return found

    def _slow_until(self, consumer: Consumer) -> int:
        """Return until when the deliveries of a consumer's queue are on their way."""
        tables, slow = self._link.tables, self._link.network.slow_queues
        ((name,),) = tables.read("SELECT name FROM queues WHERE id = ?", (consumer.queue_id,))
        return slow.get(name, 0)

    def _delay(
        self, until: Mapping[Consumer, int], sent: Mapping[Consumer, Sequence[Arrival]]
    ) -> None:
        """Let deliveries arrive at a moment, without the first of them now and then."""
        scheduler = self._link.network.scheduler
        for consumer, moment in until.items():
            if moment <= scheduler.now:
                continue
            at, first = self._late.get(consumer, (0, scheduler.random.choice(sent[consumer])))
            self._late[consumer] = max(at, moment), first
            scheduler.note("deliveries are on their way")

    def next_arrival(self) -> int | None:
        """Return when the first deliveries that are on their way arrive; None if none are."""
        now = self._link.network.scheduler.now
        self._late = {each: late for each, late in self._late.items() if late[0] > now}
        return min((at for at, _ in self._late.values()), default=None)

    def deliver_next(self) -> bool:
        """Deliver the next message that has arrived."""
        if self._late and self.next_arrival() is not None:
            arrived = self._first_arrived()
            if arrived is None:
                return False
            self._arrivals.remove(arrived)
            self._arrivals.appendleft(arrived)
        return super().deliver_next()

    def _first_arrived(self) -> Arrival | None:
        """Return the first delivery that is not on its way any more."""
        blocked: set[Consumer | None] = set()
        firsts = [first for _, first in self._late.values()]
        for each in self._arrivals:
            if any(each is first for first in firsts):
                blocked.add(each.consumer)
            if each.consumer not in blocked:
                return each
        return None

    def deliver_all(self, consumer: Consumer) -> None:
        """Deliver what was sent before the answer to a request."""
        self._late.pop(consumer, None)
        super().deliver_all(consumer)


class SimulatedConnection(Connection):
    """A connection that can be cut."""

    channel_type = SimulatedChannel

    def __init__(self, backend: Backend, **options: Any) -> None:
        """Belong to the process whose turn it is."""
        super().__init__(backend, **options)
        clock: Any = backend.clock
        clock.link.append(self)
        self.network: Network = clock.backend_of.network
        self.cut_after_next = self.cut_acknowledging = False
        self._claimed: LateMessages = LateMessages(self)
        self._turnless = self._leaving = False
        thread = self.network.scheduler.current
        self.process: Process | None = thread and (thread.owner or thread)
        self.sending = self.network.sending[self.process]
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
                if channel.unsent:
                    channel.send_acknowledgements()
            self.network.scheduler.step("asks the broker")
            self.network.meet()
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
        arrival = self._claimed.next_arrival()
        if arrival is not None:
            dues.append(arrival)
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
                    remove(tx, self.owner)
            self.collect()

    def cancel(self, consumer: int) -> None:
        """End a subscription, as a broker does when the leader of its queue changes.

        The new leader delivers unacknowledged messages again. It ignores acknowledgements of
        earlier deliveries.
        """
        with self.without_turns(), Connection.write(self) as tx:
            rows = tx.execute(
                "SELECT message FROM unacked JOIN consumers"
                " ON consumers.queue = unacked.queue AND consumers.owner = unacked.owner"
                " WHERE consumers.id = ?",
                (consumer,),
            ).fetchall()
            end_consumer(tx, consumer)
            if self.owner is not None:
                put_back(tx, self.owner, [message for (message,) in rows])
        returned = {message for (message,) in rows}
        claimed = self._claimed
        claimed._arrivals = deque(
            each for each in claimed._arrivals if each.message not in returned
        )
        for channel in self.channels.values():
            channel.forget_deliveries(returned)

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

    def _unsettled(self) -> list[tuple[str, str, bytes]]:
        """Return the queue, the content type and the body of each unsettled delivery."""
        rows = self.tables.read(
            "SELECT name, properties, body FROM unacked JOIN messages ON messages.id = message"
            " JOIN queues ON queues.id = unacked.queue WHERE unacked.owner = ? ORDER BY message",
            (self.owner,),
        )
        return [(name, json.loads(text).get("content_type", ""), body) for name, text, body in rows]

    def _on_death(self, killed: bool) -> None:
        """Let the broker notice: at once, or as late as a host that is gone."""
        if not self.connected:
            return
        chosen = self.network.scheduler.random
        lost = self.process in self.network.lost
        if killed and self.network.faulty and (lost or chosen.random() < 0.2):
            seconds = 40.0 if lost else chosen.choice((5.0, 40.0))
            self.network.kept += self._unsettled()
            self.network.scheduler.after(seconds, lambda: self.cut("no heartbeats"))
        else:
            self.cut("its process has ended")
