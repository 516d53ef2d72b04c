"""A connection to the broker file: its channels, how it writes, and how it waits."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from amqp.exceptions import ConsumerCancelled, RecoverableConnectionError

from feedbus.transports.sqlite import forks
from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.clocks import expire_due
from feedbus.transports.sqlite.compaction import Compaction
from feedbus.transports.sqlite.consumers import Consumer
from feedbus.transports.sqlite.delivery import (
    keep_limits,
    put_back,
)
from feedbus.transports.sqlite.file import (
    BUSY_TIMEOUT_SECONDS,
    BrokerFile,
    FileUnavailable,
    Transaction,
)
from feedbus.transports.sqlite.inbox import Inbox
from feedbus.transports.sqlite.liveness import Pulse, process_namespace
from feedbus.transports.sqlite.owners import enter, reap, take_out
from feedbus.transports.sqlite.wakeup import DIED, FAREWELL, RANG, SIGNALLED, Bell, Watch

if TYPE_CHECKING:
    from kombu.connection import Connection as Client

SPREAD_SECONDS = 0.004  # so that those who wait for one clock do not all wake on it at once
BASIC_CANCEL = (60, 30)


class Connection:
    """A connection; used by one thread at a time, which need not be always the same."""

    wakes_on_signals = True  # drain_events returns early when a signal has been handled

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS,
        confirm_publish: bool = False,
        client: Client | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: the broker file.
            busy_timeout_seconds: how long a file that another process keeps locked is waited for.
            confirm_publish: whether each publish waits until its message is stored durably.
            client: Kombu's connection, where it keeps what it has declared.

        Raises:
            FileUnavailable: it cannot be opened or created.

        """
        self.file = BrokerFile(path, busy_timeout_seconds=busy_timeout_seconds)
        self.client = client
        self.confirm_publish = confirm_publish
        self.connected = True
        self.owner: int | None = None
        self.channels: dict[int, Channel] = {}
        self.inbox = Inbox(self)
        self._compaction = Compaction(self.file.database, path, self.file.live)
        self._bell = Bell(self.file.live)
        self._watch: Watch | None = None
        self._pulse: Pulse | None = None
        self._owners_seen = -1
        self._audience: dict[int, list[int]] = {}  # queue: owners of its consumers, in their order
        self._audience_version = -1
        self._evented = False  # whether an event loop waits for this connection
        forks.note_open(self)

    def channel(self) -> Channel:
        """Open another channel."""
        self.check_open()
        number = max(self.channels, default=0) + 1
        made = self.channels[number] = Channel(self, number)
        return made

    def check_open(self) -> None:
        """Raise RecoverableConnectionError when this connection is closed."""
        if not self.connected:
            msg = "the connection to the broker file is closed or of a parent process; connect anew"
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
        self.stir()

    def stir(self) -> None:
        """Let an event loop look here soon: there may be messages or confirms to hand over."""
        if self._evented and self.owner is not None:
            self._bell.ring((self.owner,))

    def join_loop(self) -> int:
        """Return a descriptor that an event loop can wait for; drain_events is to follow."""
        self.enlist()
        self._evented = True
        self.stir()
        if self._watch is None:
            msg = "a connection without a watch was to join an event loop"
            raise RuntimeError(msg)
        return self._watch.fileno()

    def look_seconds(self) -> float | None:
        """Return in how many seconds an event loop must look without being woken, or None."""
        due = self._look_around()
        waits = [due, self._watch.look_seconds() if self._watch else None]
        return min((max(0.0, wait) for wait in waits if wait is not None), default=None)

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

    def take_arrived(self) -> None:
        """Notice what has happened to this connection and its queues, without waiting.

        Raises:
            RecoverableConnectionError: it is closed, or others have its deliveries.

        """
        self.check_open()
        if self._watch is not None:
            self._react(self._watch.wait(0))

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
            if self.inbox.hand_over():
                return
            happened = self._watch.wait(0) if self._watch else set()
            self._react(happened)
            if self.inbox.fetch():
                self._compaction.postpone()
                continue
            self._end_for_signal(happened)
            self._sleep(deadline)

    def _sleep(self, deadline: float | None) -> None:
        self.enlist()
        while self._watch is not None:
            due = self._look_around()
            if due is not None and due <= 0:
                with self.write():  # every write looks at the clock first
                    return
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                msg = "timed out"
                raise TimeoutError(msg)
            if due is not None:
                due += random.uniform(0, SPREAD_SECONDS)  # noqa: S311 -- spreads load
            quiet = self._compaction.seconds()
            if quiet is not None and quiet <= 0:
                self._compaction.run()
                continue
            waits = [wait for wait in (left, due, quiet) if wait is not None]
            happened = self._watch.wait(min(waits) if waits else None)
            self._react(happened)
            self._end_for_signal(happened)
            if happened:
                self._compaction.postpone()
                return

    def _end_for_signal(self, happened: set[str]) -> None:
        if SIGNALLED in happened:
            msg = "interrupted by a signal"
            raise TimeoutError(msg)

    def _look_around(self) -> float | None:
        # One row says whether anything changed; return seconds until something expires.
        ((owners, armed_ms),) = self.file.read("SELECT owners, armed_ms FROM state")
        if owners != self._owners_seen:
            self._heed()
        return None if armed_ms is None else (armed_ms - self.file.now_ms()) / 1000

    def _heed(self) -> None:
        ((self._owners_seen,),) = self.file.read("SELECT owners FROM state")
        rows = self.file.read("SELECT id, pid, namespace FROM owners")
        if self.owner is not None and self.owner not in {owner for owner, _, _ in rows}:
            self.fence()
        if self._watch:
            others = {owner: (pid, namespace) for owner, pid, namespace in rows}
            self._watch.heed(process_namespace(), others)
        living = self.file.read("SELECT id FROM consumers WHERE owner = ?", (self.owner,))
        ended = self.inbox.consumers.keys() - {identity for (identity,) in living}
        for identity in ended:
            self._cancelled(self.inbox.consumers[identity])

    def _react(self, happened: set[str]) -> None:
        if RANG in happened:  # who is always busy never sleeps, and looks around here
            self._look_around()
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
        self.inbox.forget(consumer)
        if consumer.on_cancel is None:
            self._owners_seen = -1  # there may be more to tell
            raise ConsumerCancelled(consumer.tag, BASIC_CANCEL)
        consumer.on_cancel(consumer.tag)

    def close(self) -> None:
        """Close all channels; what they hold goes back. A second time does nothing."""
        if not self.connected:
            return
        try:
            for channel in list(self.channels.values()):
                channel.flush()
            if self.owner is not None:
                with self.write() as tx:
                    put_back(tx, self.owner, self.inbox.unseen(), delivered=False)
                    take_out(tx, self.owner)
        finally:
            self.collect()

    def collect(self) -> None:
        """Let go of everything without a word to the file; others see it as a death."""
        forks.note_closed(self)
        self._forget_channels()
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

    def _forget_channels(self) -> None:
        self.connected = False
        for channel in self.channels.values():
            channel.is_open = False
        self.channels.clear()
        self.inbox.clear()

    def hold(self) -> None:
        """Wait until no other thread uses the file, and let none begin."""
        self.file.hold()

    def resume(self) -> None:
        """Let other threads use the file again."""
        self.file.resume()

    def disown(self) -> None:
        """Close a child process's copy; its parent goes on with the connection."""
        self._forget_channels()
        if self._watch is not None:
            self._watch.drop()
        if self._pulse is not None:
            self._pulse.drop()
        self._bell.drop()
        self.file.close()
