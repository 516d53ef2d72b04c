"""A connection to the broker file: its channels, what its consumers hold, and how it waits."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from amqp.exceptions import ConsumerCancelled, RecoverableConnectionError

from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.clocks import expire_due
from feedbus.transports.sqlite.consumers import Arrival, Consumer
from feedbus.transports.sqlite.delivery import (
    claim,
    content_of,
    keep_limits,
    put_back,
    settle,
)
from feedbus.transports.sqlite.file import (
    BUSY_TIMEOUT_SECONDS,
    BrokerFile,
    FileUnavailable,
    Transaction,
)
from feedbus.transports.sqlite.liveness import Pulse, process_namespace
from feedbus.transports.sqlite.owners import enter, is_entered, reap, take_out
from feedbus.transports.sqlite.wakeup import DIED, FAREWELL, SIGNALLED, Bell, Watch

LOADED_AT_ONCE = 50  # bodies held in memory beside those that were handed over
SPREAD_SECONDS = 0.004  # so that those who wait for one clock do not all wake on it at once
BASIC_CANCEL = (60, 30)


class Connection:
    """A connection; used by one thread at a time, which need not be always the same."""

    def __init__(self, path: Path, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> None:
        """Open the file.

        Raises:
            FileUnavailable: it cannot be opened or created.

        """
        self.file = BrokerFile(path, busy_timeout_seconds=busy_timeout_seconds)
        self.connected = True
        self.owner: int | None = None
        self.channels: dict[int, Channel] = {}
        self.consumers: dict[int, Consumer] = {}
        self.inbox: deque[Arrival] = deque()
        self._bell = Bell(self.file.live)
        self._watch: Watch | None = None
        self._pulse: Pulse | None = None
        self._turn = 0
        self._owners_seen = -1
        self._audience: dict[int, list[int]] = {}  # queue: owners of its consumers, in their order
        self._audience_version = -1

    def channel(self) -> Channel:
        """Open another channel."""
        self.check_open()
        number = max(self.channels, default=0) + 1
        made = self.channels[number] = Channel(self, number)
        return made

    def check_open(self) -> None:
        """Raise RecoverableConnectionError when this connection is closed."""
        if not self.connected:
            msg = "the connection to the broker file is closed; connect anew"
            raise RecoverableConnectionError(msg)

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Transaction]:
        """Run a write transaction, then wake those whom it concerns."""
        with self.file.write(durable=durable) as tx:
            expire_due(tx)
            yield tx
            keep_limits(tx)
            concerned = self._concerned(tx)
        self._bell.ring(concerned)

    def _concerned(self, tx: Transaction) -> set[int]:
        concerned = set(tx.stirred)
        if tx.everyone:
            concerned.update(owner for (owner,) in tx.execute("SELECT id FROM owners").fetchall())
        if tx.supplied:
            if tx.owners_changed or self._audience_version != tx.owners:
                self._read_audience(tx)
            for queue in tx.supplied.values():
                audience = self._audience.get(queue.id, ())
                concerned.update(audience[:1] if queue.single_active else audience)
        concerned.discard(self.owner or 0)
        return concerned

    def _read_audience(self, tx: Transaction) -> None:
        self._audience = {}
        for queue, owner in tx.execute("SELECT queue, owner FROM consumers ORDER BY id"):
            self._audience.setdefault(queue, []).append(owner)
        self._audience_version = -1 if tx.owners_changed else tx.owners

    def enlist(self) -> int:
        """Enter this connection among those that hold deliveries; return its id."""
        if self.owner is not None:
            return self.owner
        try:
            with self.write() as tx:
                owner = enter(tx)
                self._pulse = Pulse(self.file.live, owner)  # before others can see the id
                self._bell.listen(owner)
                reap(tx, self.file.live, owner)
        except BaseException:
            if self._pulse is not None:
                self._pulse.stop()
            raise
        self.owner = owner
        self._watch = Watch(self._bell)
        self._heed()
        return owner

    def drain_events(self, timeout: float | None = None) -> None:
        """Let one thing happen: confirms and returns told, or one message delivered.

        Args:
            timeout: seconds to wait for it, None for ever.

        Raises:
            TimeoutError: nothing happened in time, or a signal's handler ran meanwhile.
            FileUnavailable: the broker file cannot be used.
            ConsumerCancelled: a consumer's queue was deleted.

        """
        self.check_open()
        for channel in list(self.channels.values()):
            channel.flush()
            if channel.tell():
                return
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._hand_over():
                return
            self._react(self._watch.wait(0) if self._watch else set())
            if self._fetch():
                continue
            self._sleep(deadline)

    def _sleep(self, deadline: float | None) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            msg = "timed out"
            raise TimeoutError(msg)
        self.enlist()
        due = self._look_around()
        if due is not None and due <= 0:
            with self.write():  # every write looks at the clock first
                return
        if due is not None:
            due += random.uniform(0, SPREAD_SECONDS)  # noqa: S311 -- spreads load, hides nothing
        waits = [wait for wait in (left, due) if wait is not None]
        if self._watch is None:
            return
        happened = self._watch.wait(min(waits) if waits else None)
        self._react(happened)
        if SIGNALLED in happened:
            msg = "interrupted by a signal"
            raise TimeoutError(msg)

    def _look_around(self) -> float | None:
        # One row says whether anything changed; return seconds until something expires.
        ((owners, armed_ms),) = self.file.read("SELECT owners, armed_ms FROM state")
        if owners != self._owners_seen:
            self._heed()
        return None if armed_ms is None else armed_ms / 1000 - time.time()

    def _heed(self) -> None:
        ((self._owners_seen,),) = self.file.read("SELECT owners FROM state")
        rows = self.file.read("SELECT id, pid, namespace FROM owners")
        if self.owner is not None and self.owner not in {owner for owner, _, _ in rows}:
            self.fence()
        others = {pid: namespace for _, pid, namespace in rows}
        if self._watch and self._watch.heed(process_namespace(), others):
            self._react({DIED})
        living = self.file.read("SELECT id FROM consumers WHERE owner = ?", (self.owner,))
        ended = self.consumers.keys() - {identity for (identity,) in living}
        for identity in ended:
            self._cancelled(self.consumers[identity])

    def _react(self, happened: set[str]) -> None:
        if DIED in happened:
            with self.write() as tx:
                reap(tx, self.file.live, self.owner)

    def fence(self) -> None:
        """Stop here: this connection was taken for dead, and others have its deliveries.

        Raises:
            RecoverableConnectionError: always.

        """
        self.collect()
        msg = (
            "the broker took this connection for dead and gave its deliveries to others;"
            " connect anew"
        )
        raise RecoverableConnectionError(msg)

    def _cancelled(self, consumer: Consumer) -> None:
        self.forget(consumer)
        if consumer.on_cancel is None:
            raise ConsumerCancelled(consumer.tag, BASIC_CANCEL)
        consumer.on_cancel(consumer.tag)

    def forget(self, consumer: Consumer) -> list[int]:
        """Drop a consumer here; return what was claimed for it and not handed over."""
        self.consumers.pop(consumer.id, None)
        consumer.channel.consumers.pop(consumer.tag, None)
        left = [arrival.message for arrival in self.inbox if arrival.consumer is consumer]
        self.inbox = deque(arrival for arrival in self.inbox if arrival.consumer is not consumer)
        return left

    def _fetch(self) -> bool:
        hungry = [
            consumer
            for consumer in self.consumers.values()
            if consumer.room() and self._has_messages(consumer)
        ]
        if not hungry or self.owner is None:
            return False
        self._turn += 1
        first = self._turn % len(hungry)
        found: list[Arrival] = []
        held = [consumer.held for consumer in hungry]
        try:
            with self.write() as tx:
                entered = is_entered(tx, self.owner)
                for consumer in hungry[first:] + hungry[:first] if entered else ():
                    claimed = self._claim(tx, consumer)
                    consumer.held += 0 if consumer.no_ack else len(claimed)
                    found += claimed
        except BaseException:
            for consumer, before in zip(hungry, held, strict=True):
                consumer.held = before
            raise
        if not entered:
            self.fence()
        self.inbox.extend(found)
        return bool(found)

    def _has_messages(self, consumer: Consumer) -> bool:
        if not self.file.read("SELECT 1 FROM ready WHERE queue = ? LIMIT 1", (consumer.queue_id,)):
            return False
        if not consumer.single_active:
            return True
        ((active,),) = self.file.read(
            "SELECT min(id) FROM consumers WHERE queue = ?", (consumer.queue_id,)
        )
        return bool(active == consumer.id)

    def _claim(self, tx: Transaction, consumer: Consumer) -> list[Arrival]:
        queue = tx.routes.queues_by_id.get(consumer.queue_id)
        if queue is None or self.owner is None:
            return []
        row = tx.execute(
            "SELECT count(*), min(id) FROM consumers WHERE queue = ?", (queue.id,)
        ).fetchone()
        sharers = max(1, row[0])
        if queue.single_active:
            if row[1] != consumer.id:
                return []
            sharers = 1
        room = consumer.room()
        taken = claim(tx, queue, self.owner, room, sharers) if room else []
        arrivals = [
            Arrival(consumer, message, returns, queue.quorum, consumer.no_ack)
            for message, returns in taken
        ]
        if consumer.no_ack:
            for arrival in arrivals:
                arrival.content = content_of(tx, arrival.message)
            settle(tx, self.owner, [message for message, _ in taken])
        return arrivals

    def _hand_over(self) -> bool:
        while self.inbox:
            if self.inbox[0].content is None:
                self._load_bodies()
            arrival = self.inbox.popleft()
            if arrival.consumer is None:
                continue
            if arrival.content is None:  # its queue was deleted meanwhile
                arrival.consumer.held -= not arrival.settled
                continue
            arrival.consumer.channel.deliver(arrival, arrival.consumer)
            return True
        return False

    def _load_bodies(self) -> None:
        near = {
            arrival.message: arrival
            for arrival, _ in zip(self.inbox, range(LOADED_AT_ONCE), strict=False)
            if arrival.content is None
        }
        for message, *content in self.file.read(
            "SELECT id, exchange, routing_key, properties, body FROM messages"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(near)),),
        ):
            near[message].content = tuple(content)

    def close(self) -> None:
        """Close all channels; what they hold goes back. A second time does nothing."""
        if not self.connected:
            return
        try:
            for channel in list(self.channels.values()):
                channel.flush()
            if self.owner is not None:
                with self.write() as tx:
                    unseen = [arrival.message for arrival in self.inbox]
                    put_back(tx, self.owner, unseen, delivered=False)
                    take_out(tx, self.owner)
        finally:
            self.collect()

    def collect(self) -> None:
        """Let go of everything without a word to the file; others see it as a death."""
        self.connected = False
        for channel in self.channels.values():
            channel.is_open = False
        self.channels.clear()
        self.consumers.clear()
        self.inbox.clear()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._pulse is not None:
            self._pulse.stop()
            with contextlib.suppress(FileUnavailable):  # no process dies that they could watch
                others = self.file.read("SELECT id FROM owners WHERE id <> ?", (self.owner,))
                self._bell.ring((owner for (owner,) in others), FAREWELL)
        self._bell.close(self.owner)
        self.file.close()
