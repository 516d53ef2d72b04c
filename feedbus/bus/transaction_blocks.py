"""The blocks of LiveBus.transaction(): the store commits, and then the messages are sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from feedbus.bus.committed_messages import CommittedMessages
from feedbus.bus.shared_sender import SharedSender
from feedbus.bus.transactions import CurrentTransaction, Transaction
from feedbus.clock import Clock
from feedbus.errors import StoreOutage, UsageError
from feedbus.store import NoStore, Store, open_store
from feedbus.store.no_store import refuse
from feedbus.store.thread_state import thread_state
from feedbus.topology import Topology

INSIDE_TRANSACTION = (
    "bus.transaction() inside a transaction of a store that was begun without this bus: the bus"
    " does not know when that transaction commits; replace the outer transaction by a block of the"
    " same bus.transaction(), or, in a handler, publish with the handler's parameter of type Bus"
)


class TransactionBlocks:
    """Begins and ends the transactions of a LiveBus, in the store that it opens at the first one.

    A LiveBus has one TransactionBlocks object, and a forked process another one for the same bus.

    Attributes:
        current: the open transaction of each thread.
        committed_messages: sends the messages of the transactions; None before the first one.

    """

    def __init__(
        self, topology: Topology, clock: Clock, sender: SharedSender, given_store: Store | None
    ) -> None:
        """Create the object; it does not open a store.

        Args:
            topology: the topology of the system.
            clock: the clock of the broker.
            sender: sends the messages.
            given_store: an open store, which close() does not close; None to open the topology's
                store.

        """
        self._topology = topology
        self._clock = clock
        self._sender = sender
        self._given_store = given_store
        self._store = given_store
        self._open_lock = threading.Lock()
        self.current = CurrentTransaction()
        self.committed_messages: CommittedMessages | None = None

    @contextmanager
    def block(self) -> Iterator[Any]:
        """Run a block in a transaction of the store; then send the messages of the transaction.

        LiveBus.transaction() describes what is yielded and raised.
        """
        if self.current.transaction is None and thread_state.in_transaction:
            raise UsageError(INSIDE_TRANSACTION)
        committed_messages = self._open()
        store = committed_messages.store
        if self.current.transaction is not None:
            with store.transaction() as session:
                yield session
            return
        if store.in_transaction:
            raise UsageError(INSIDE_TRANSACTION)
        current = self.current.transaction = Transaction(store)
        try:
            try:
                with store.transaction() as session:
                    thread_state.in_transaction = True
                    try:
                        yield session
                    finally:
                        thread_state.in_transaction = False
                    committed_messages.register(current)
            except StoreOutage:
                # The store may have committed although the bus got no answer. Then the messages are
                # in the outbox, and must be sent before later messages of their keys.
                committed_messages.leave_in_outbox(current)
                raise
            finally:
                self.current.transaction = None
            committed_messages.send(current)
        finally:
            committed_messages.withdraw(current)

    def _open(self) -> CommittedMessages:
        """Return the sender of committed messages; open the store if it is not open."""
        with self._open_lock:
            if self._store is None:
                store = open_store(self._topology)
                if isinstance(store, NoStore):
                    refuse()
                try:
                    store.set_up()
                except BaseException:
                    store.close()
                    raise
                self._store = store
            if self.committed_messages is None:
                self.committed_messages = CommittedMessages(
                    self._store, self._topology, self._clock, self._sender
                )
            return self.committed_messages

    def close(self) -> None:
        """Close the store, if this object has opened it."""
        with self._open_lock:
            if self._store is not None and self._store is not self._given_store:
                self._store.close()
                self._store = self.committed_messages = None
