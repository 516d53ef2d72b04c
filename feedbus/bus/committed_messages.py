"""The messages of committed transactions: sent by the bus, or left in the outbox for the relay.

A transaction is here a block of LiveBus.transaction(). Its messages are rows of the outbox, and the
ids of the rows grow in the order of publishing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from feedbus.bus.outbox_requests import confirmed_rows, request_of
from feedbus.bus.publish_requests import Request
from feedbus.bus.shared_sender import SharedSender
from feedbus.bus.transactions import Transaction
from feedbus.clock import Clock
from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.logs import EventLog
from feedbus.printable import one_line
from feedbus.store import Store
from feedbus.store.key_locks import KeyLocks
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.store.outbox_publishing import log_rows_left, split_into_waves
from feedbus.store.protocol import OutboxRow
from feedbus.topology import Topology

events = EventLog(__name__)

# For this time after an outage of the broker, the bus leaves the messages of a transaction to the
# relay if earlier rows are still in the outbox. So not every transaction waits for the broker.
RETRY_SECONDS = 5.0


class CommittedMessages:
    """Sends the messages of a bus's transactions after their commit; each key stays in order.

    A LiveBus has one CommittedMessages object after its first transaction.
    """

    def __init__(
        self, store: Store, topology: Topology, clock: Clock, sender: SharedSender
    ) -> None:
        """Create the object for the outbox of a store.

        Args:
            store: the store of the transactions.
            topology: the topology of the system.
            clock: the clock of the broker.
            sender: sends the messages.

        """
        self.store = store
        self._topology = topology
        self._clock = clock
        self._sender = sender
        self._leftovers = LeftoverRows(store, topology.name, clock)
        self._locks = KeyLocks()
        self._retry_at = -math.inf  # the end of RETRY_SECONDS after the last outage

    def register(self, transaction: Transaction) -> None:
        """Register a transaction, so that no other thread sends later rows of the same keys first.

        If another thread calls send() for such rows, that thread waits until send() or withdraw()
        has returned for this transaction. Call register() before the commit.

        Args:
            transaction: the rows that the transaction has added to the outbox.

        """
        if transaction.requests:
            self._locks.register(transaction.first_row, transaction.keys)

    def withdraw(self, transaction: Transaction) -> None:
        """Remove the registration of a transaction, so that no other thread waits for it.

        send() also removes the registration. So after send(), this method does nothing.

        Args:
            transaction: the transaction; register() may have been called for it.

        """
        if transaction.requests:
            self._locks.withdraw(transaction.first_row)

    def leave_in_outbox(self, transaction: Transaction) -> None:
        """Register that the rows of a transaction may be in the outbox, and are not sent now.

        Then they are sent before later rows of the same keys. Call it if it is not known whether
        the commit has succeeded.

        Args:
            transaction: the rows that the transaction has added to the outbox.

        """
        if transaction.requests:
            self._leftovers.add(transaction.rows)

    def send(self, committed: Transaction) -> None:
        """Send the messages of a committed transaction; log an outage instead of raising it.

        Rows with the same keys that are left in the outbox are sent first. A row that cannot be
        sent now stays in the outbox. This bus sends it before the next message of its key, unless
        the relay has sent it by then.

        Args:
            committed: the rows that the transaction has added to the outbox.

        """
        if committed.requests:
            with self._locks.hold(committed.first_row, committed.keys):
                self._send(committed)

    def _send(self, committed: Transaction) -> None:
        leftover_rows, confirmed = self._leftovers, list[int]()
        leftover_rows.register_sender(committed, committed.rows)
        try:
            if self._clock.monotonic() < self._retry_at and leftover_rows.may_contain(
                committed.first_row
            ):
                return
            with leftover_rows.hold_earlier(committed.first_row, committed.last_row) as earlier:
                # None: there are too many leftover rows, or the relay publishes them now.
                if earlier is None or not self._send_rows(earlier):
                    return
                self._send_now(committed.requests)
                confirmed = committed.confirmed_rows()
                if confirmed:
                    with self.store.transaction():
                        self.store.outbox.remove(confirmed)
        except Exception as error:
            if not (isinstance(error, StoreOutage) or self.store.is_outage(error)):
                raise
            if confirmed:
                # The relay publishes the messages of these rows a second time.
                log_rows_left(len(confirmed), error)
                return
            events.warning(
                "outbox_unreadable",
                "the outbox cannot be read after a commit; the messages of the transaction stay"
                " there, and the operations process will publish them",
                error=one_line(error),
            )
        finally:
            leftover_rows.remove_sender(committed)
            if len(confirmed) < len(committed.rows):
                leftover_rows.add(committed.rows)

    def _send_now(self, requests: Sequence[Request]) -> None:
        self._sender.send_together(requests, timeout_seconds=0, hold_back=True)
        if any(isinstance(each.outcome, BrokerOutage) for each in requests):
            self._retry_at = self._clock.monotonic() + RETRY_SECONDS

    def _send_rows(self, rows: Sequence[OutboxRow]) -> bool:
        """Send and remove rows that were left in the outbox; return whether all were sent."""
        for wave in split_into_waves(rows, self._topology.selects_shards):
            requests = [request_of(row, self._clock) for row in wave]
            self._send_now(requests)
            confirmed = confirmed_rows(wave, requests)
            with self.store.transaction():
                self.store.outbox.remove(confirmed)
            if len(confirmed) < len(wave):
                return False
        return True
