"""The messages that a thread publishes in a transaction of the store, as rows of the outbox."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedbus.broker.refused_messages import Refusal
from feedbus.bus.outbox_requests import put_records
from feedbus.bus.publish_requests import Request
from feedbus.records.packs import Pack
from feedbus.store import Store
from feedbus.store.key_locks import Key
from feedbus.store.outbox_publishing import log_messages_left
from feedbus.wire.constants import PACK


class Transaction:
    """The rows that one LiveBus.transaction() adds to the outbox, with the publish calls.

    Each publish call in the block of the transaction is a Request. An object exists from the
    beginning of the transaction until its messages are sent or left to the relay.
    """

    def __init__(self, store: Store) -> None:
        """Create the object for a transaction of this store."""
        self._store = store
        self._requests_with_ids: list[tuple[Request, list[int]]] = []

    def add(self, request: Request, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Add the records of a publish call to the outbox.

        It is called for each publish in the block of the transaction.

        Args:
            request: the records of the publish call, already encoded.
            payloads: the payload that the outbox stores for each record.

        """
        outbox, pack = self._store.outbox, request.pack
        ids = put_records(outbox, request.exchange, pack, payloads, request.envelope)
        # After this call, the caller may change the lists of the pack. Only the ids and the keys
        # are still needed, because the records are encoded.
        request.pack = Pack(pack.ids, [*pack.keys], {}, {})
        self._requests_with_ids.append((request, ids))

    @property
    def requests(self) -> list[Request]:
        """The requests to send after the commit, one for each publish call, in their order."""
        return [request for request, _ in self._requests_with_ids]

    @property
    def rows(self) -> list[int]:
        """The ids of all rows that the transaction has added to the outbox, ascending."""
        return [row_id for _, ids in self._requests_with_ids for row_id in ids]

    @property
    def keys(self) -> set[Key]:
        """The keys of the records, each as (exchange, routing key)."""
        return {key for request, _ in self._requests_with_ids for key in request.keys}

    @property
    def first_row(self) -> int:
        """The id of the first row that the transaction has added; it must have added one."""
        return self._requests_with_ids[0][1][0]

    @property
    def last_row(self) -> int:
        """The id of the last row that the transaction has added; it must have added one."""
        return self._requests_with_ids[-1][1][-1]

    def confirmed_rows(self) -> list[int]:
        """Return the ids of the confirmed rows, and log which other messages stay in the outbox.

        It is called after the requests were sent. A row is confirmed if the broker has stored its
        message. The other rows stay in the outbox, and the LiveBus or the relay publishes them
        later, with the same message ids.
        """
        confirmed: list[int] = []
        for request, ids in self._requests_with_ids:
            if isinstance(request.outcome, list):
                confirmed += _confirmed_ids(request, ids, request.outcome)
            if request.outcome:
                log_messages_left(_reason(request), exchange=request.exchange)
        return confirmed


def _confirmed_ids(request: Request, ids: Sequence[int], refusals: Sequence[Refusal]) -> list[int]:
    """Return the ids of the rows whose messages the broker accepted.

    Args:
        request: the request of the rows.
        ids: the ids of the rows.
        refusals: the messages of the request that the broker did not accept.

    """
    if any(refusal.message.content_type == PACK for refusal in refusals):
        return []  # it is not known which records of the request arrived
    refused = {refusal.message.message_id for refusal in refusals}
    pairs = zip(ids, request.pack.ids, strict=True)
    return [row_id for row_id, message_id in pairs if message_id not in refused]


def _reason(request: Request) -> str:
    try:
        request.raise_error()
    except Exception as error:  # noqa: BLE001 -- every error is reported
        return str(error)
    return ""


class CurrentTransaction(threading.local):
    """The open transaction of the current thread; None if the thread has none.

    A LiveBus has one CurrentTransaction object. Each thread sees its own value of `transaction`.
    """

    transaction: Transaction | None = None
