"""A connection's registration in the broker file: its id, its writes, and its wake-ups.

Each connection that consumes, or that declares exclusive queues, is entered in the tables as an
owner. Other connections can see that it is live, and can wake it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from amqp.exceptions import RecoverableConnectionError

from feedbus.transports.sqlite import forks
from feedbus.transports.sqlite.backend_interfaces import FAREWELL
from feedbus.transports.sqlite.connection_backend import Backend
from feedbus.transports.sqlite.delivery_owners import register, remove, remove_dead
from feedbus.transports.sqlite.event_wait import DIED, SIGNALLED, WAKE_UP, WOKEN, Watch
from feedbus.transports.sqlite.expiry import expire_due
from feedbus.transports.sqlite.liveness import process_namespace
from feedbus.transports.sqlite.queued_messages import enforce_limits
from feedbus.transports.sqlite.transactions import FileUnavailable, Transaction

# Many connections can wait for the same expiry. Each connection waits longer by a random time up to
# this one, so that they do not all write at the same moment.
SPREAD_SECONDS = 0.004
CHECK_SECONDS = 0.05  # the smallest time between two checks of take_arrived()


class RegisteredConnection:
    """The base of a connection: registers in the tables, writes to them, and waits for events.

    Args:
        backend: the tables of the broker, with the objects for time, wake-ups and locks.

    Attributes:
        owner: the id of this connection in the file; None until register() has registered it.
    """

    # Publishers read this attribute. RabbitMQ can block publishers; the embedded broker never does.
    is_blocked = False

    def __init__(self, backend: Backend) -> None:
        """Create the connection with a backend that no other connection uses."""
        self.tables = backend.tables
        self.liveness = backend.liveness
        self.connected = True
        self.owner: int | None = None
        self.clock = backend.clock
        self._random = backend.random
        self._upkeep = backend.upkeep
        self._wake_ups = backend.wake_ups
        self._watch: Watch | None = None
        self._owners_seen = -1
        self._checked_at = 0.0
        # Maps the id of each queue to the owners of its consumers, the oldest consumer first.
        self._consumer_owners: dict[int, list[int]] = {}
        # The count of changes of consumers when _consumer_owners was read; -1 to read it again.
        self._consumer_owners_version = -1
        self._evented = False  # whether an event loop waits for this connection
        forks.note_open(self)

    def unique(self) -> str:
        """Return 32 random hexadecimal digits, for a name or tag that no other object has."""
        return f"{self._random.getrandbits(128):032x}"

    def check_open(self) -> None:
        """Raise RecoverableConnectionError if this connection is closed.

        The methods of the connection and of its channels that use the broker call it first.
        """
        if not self.connected:
            msg = (
                "the connection to the broker is closed or belongs to a parent process; connect"
                " again"
            )
            raise RecoverableConnectionError(msg)

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Transaction]:
        """Run the body of a `with` statement in a write transaction, and commit it.

        Then wake the connections that must read the changes. If the body raises an exception, the
        transaction is rolled back.

        Args:
            durable: whether the write must survive a power cut, not only the death of processes.

        Raises:
            FileUnavailable: the tables cannot be written.
        """
        with self.tables.write(durable=durable) as tx:
            expire_due(tx)
            yield tx
            enforce_limits(tx)
            concerned = self._owners_to_wake(tx)
        self._wake_ups.wake(concerned)
        self._upkeep.postpone()
        self.wake_event_loop()

    def wake_event_loop(self) -> None:
        """Wake the event loop that waits for this connection: there may be a message to deliver.

        It does nothing if no event loop waits for this connection.
        """
        if self._evented and self.owner is not None:
            self._wake_ups.wake((self.owner,))

    def _owners_to_wake(self, tx: Transaction) -> set[int]:
        concerned = set(tx.owners_to_wake)
        if tx.everyone:
            concerned.update(owner for (owner,) in tx.execute("SELECT id FROM owners").fetchall())
        if tx.queues_with_new_messages:
            if tx.owners_changed or self._consumer_owners_version != tx.owners:
                self._read_consumer_owners(tx)
            for queue in tx.queues_with_new_messages.values():
                owners = self._consumer_owners.get(queue.id, ())
                concerned.update(owners[:1] if queue.single_active else owners)
        concerned.discard(self.owner or 0)
        return concerned

    def _read_consumer_owners(self, tx: Transaction) -> None:
        self._consumer_owners = {}
        for queue, owner in tx.execute("SELECT queue, owner FROM consumers ORDER BY id"):
            self._consumer_owners.setdefault(queue, []).append(owner)
        # The result may contain changes of this transaction, which can still be rolled back.
        self._consumer_owners_version = -1 if tx.owners_changed else tx.owners

    def register(self) -> int:
        """Register this connection as an owner of deliveries; return its id.

        It is called before the connection consumes, waits or declares an exclusive queue. A second
        call only returns the id.
        """
        if self.owner is not None:
            return self.owner
        try:
            with self.write() as tx:
                owner = register(tx)
                self.liveness.begin(owner)  # before the commit, so before others can see the id
                self._wake_ups.listen(owner)
                remove_dead(tx, self.liveness, owner)
        except BaseException:
            self.liveness.end()
            raise
        self.owner = owner
        self._watch = Watch(self._wake_ups, self.clock)
        self.refresh()
        return owner

    def join_loop(self) -> int:
        """Prepare for Kombu's event loop; return the descriptor for which the loop must wait.

        When the descriptor is readable, the loop must call drain_events().
        """
        self.register()
        self._evented = True
        self.wake_event_loop()
        if self._watch is None:
            msg = "register() did not create the object that waits for events"
            raise RuntimeError(msg)
        return self._watch.fileno()

    def wake_on(self, descriptor: int) -> None:
        """Let drain_events() raise TimeoutError as soon as a descriptor can be read.

        feedbus's runner uses it, so that another thread can end the runner's wait.
        """
        self.register()
        if self._watch is not None:
            self._watch.wake_on(descriptor)

    def check_seconds(self) -> float | None:
        """Return in how many seconds an event loop must call drain_events() even without a wake-up.

        None means that the loop need not call it before a wake-up arrives. The transport reads the
        time when no event is left.
        """
        due = self._read_state()
        watched = self._watch.check_seconds() if self._watch else None
        waits = [due, watched, self._upkeep.seconds()]
        seconds = min((max(0.0, wait) for wait in waits if wait is not None), default=None)
        return None if seconds is None else seconds + self._spread_seconds()

    def take_arrived(self) -> None:
        """Process wake-ups, and the ends of other connections, without waiting.

        If the last check was less than 0.05 s ago, the method does nothing: there is no server that
        could close the connection, so more checks are not needed. The method delivers no messages;
        Connection.take_arrived() calls it, and then delivers them.

        Raises:
            RecoverableConnectionError: this connection is closed, or was treated as dead.
        """
        self.check_open()
        now = self.clock.monotonic()
        if now - self._checked_at > CHECK_SECONDS:
            self._checked_at = now
            self.check()

    def check(self) -> set[str]:
        """Process the events that have occurred, without waiting; return their names.

        WAKE_UP: another connection has sent a wake-up. DIED: another connection or its process
        has ended. SIGNALLED: a signal was handled. WOKEN: the descriptor of wake_on() is
        readable.
        """
        happened = self._watch.wait(0) if self._watch else set()
        self._react(happened)
        return happened

    def sleep(self, deadline: float | None) -> None:
        """Wait until the tables may have changed.

        The wait ends after a wake-up, after an expiry, or when another connection has ended.

        Args:
            deadline: a time of the monotonic clock, in seconds; None if there is no limit.

        Raises:
            TimeoutError: the deadline is over, a signal handler ran meanwhile, or the descriptor
                of wake_on() is readable.
            FileUnavailable: the tables cannot be read or written.
        """
        self.register()
        while self._watch is not None:
            due = self._read_state()
            if due is not None and due <= 0:
                with self.write():  # every write first checks what has expired
                    return
            upkeep = self._upkeep.seconds()
            if upkeep is not None and upkeep <= 0:
                with self.tables.use:
                    self._upkeep.run()
                continue
            remaining_seconds = None if deadline is None else deadline - self.clock.monotonic()
            if remaining_seconds is not None and remaining_seconds <= 0:
                msg = "timed out: no event arrived on the connection to the broker file"
                raise TimeoutError(msg)
            if due is not None:
                due += self._spread_seconds()
            waits = [wait for wait in (remaining_seconds, due, upkeep) if wait is not None]
            happened = self._watch.wait(min(waits) if waits else None)
            self._react(happened)
            self.end_for_signal(happened)
            if happened:
                return

    def end_for_signal(self, happened: set[str]) -> None:
        """Raise TimeoutError if a signal handler ran or the descriptor of wake_on() is readable.

        Args:
            happened: the names of the events that check() has returned.
        """
        if SIGNALLED in happened or WOKEN in happened:
            msg = "interrupted by a signal" if SIGNALLED in happened else "woken"
            raise TimeoutError(msg)

    def _read_state(self) -> float | None:
        # One row contains the counter of changes of connections, and the time of the next expiry.
        # Return the seconds until the next expiry.
        ((owners, armed_ms),) = self.tables.read("SELECT owners, armed_ms FROM state")
        if owners != self._owners_seen:
            self.refresh()
        return None if armed_ms is None else (armed_ms - self.tables.now_ms()) / 1000

    def refresh(self) -> None:
        """Read which connections exist now, and watch their processes.

        It is called when the counter of the table `state` shows that connections or consumers have
        changed.

        Raises:
            RecoverableConnectionError: other connections have treated this connection as dead.
        """
        ((self._owners_seen,),) = self.tables.read("SELECT owners FROM state")
        rows = self.tables.read("SELECT id, pid, namespace FROM owners")
        if self.owner is not None and self.owner not in {owner for owner, _, _ in rows}:
            self.lose_registration()
        if self._watch:
            others = {owner: (pid, namespace) for owner, pid, namespace in rows}
            self._watch.refresh(process_namespace(), others)

    def read_connections_again(self) -> None:
        """Make the next check() read again which connections exist.

        It is called before ConsumerCancelled is raised for one consumer that has ended: other
        consumers may have ended, too.
        """
        self._owners_seen = -1

    def _react(self, happened: set[str]) -> None:
        if happened:
            self._upkeep.postpone()
        if WAKE_UP in happened:  # a busy connection never calls sleep(), so it checks here
            self._read_state()
        if DIED in happened:
            with self.write() as tx:
                remove_dead(tx, self.liveness, self.owner)

    def lose_registration(self) -> None:
        """Stop using the file, because others have treated this connection as dead.

        Raises:
            RecoverableConnectionError: always.

        """
        self.collect()
        msg = (
            "the broker considered this connection dead and delivered its messages to others;"
            " connect again"
        )
        raise RecoverableConnectionError(msg)

    def close(self) -> None:
        """Unregister the connection, so that its unsettled deliveries return to their queues.

        A second call does nothing.
        """
        if not self.connected:
            return
        try:
            if self.owner is not None:
                with self.write() as tx:
                    remove(tx, self.owner)
        finally:
            self.collect()

    def collect(self) -> None:
        """Close without writing to the file; for other connections, this is the same as a crash.

        Kombu and feedbus call this method for a lost connection. Otherwise they call close().
        """
        forks.note_closed(self)
        self.connected = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self.owner is not None:
            self.liveness.end()
            # The process still lives, so no other connection would notice the loss.
            with contextlib.suppress(FileUnavailable):
                others = self.tables.read("SELECT id FROM owners WHERE id <> ?", (self.owner,))
                self._wake_ups.wake((owner for (owner,) in others), FAREWELL)
        self._wake_ups.close(self.owner)
        self.tables.close()

    def hold(self) -> None:
        """Wait until no other thread uses the file, and then block the other threads.

        It is called before a fork.
        """
        self.tables.use.acquire()

    def resume(self) -> None:
        """Allow other threads to use the file again; called in the parent after a fork."""
        self.tables.use.release()

    def close_in_child(self) -> None:
        """Close the copy of the connection in a forked child.

        The parent's connection stays open.
        """
        self.connected = False
        if self._watch is not None:
            self._watch.drop()
        self.liveness.drop()
        self._wake_ups.drop()
        self.tables.close()

    def _spread_seconds(self) -> float:
        return self._random.uniform(0, SPREAD_SECONDS)
