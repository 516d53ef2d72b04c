"""Calls of handlers that lost the connection to the store, because of an outage or the handler."""

from __future__ import annotations

from feedbus.errors import StoreOutage
from feedbus.records import Records
from feedbus.store import Store
from feedbus.store.outages import is_connection_loss

MAX_CALLS = 1_000  # if more calls have lost the connection, all of them are forgotten


class ConnectionClosed(Exception):  # noqa: N818 -- names what happened
    """A handler has closed the store's connection, or its statements have ended the connection.

    feedbus uses it and logs it in place of the store's exception; the queue's retry policy then
    applies to the records.
    """


class LostStoreConnections:
    """The calls that lost the connection to the store while the store was available.

    HandlerCalls, which calls the handlers of a consumer, has one LostStoreConnections object.
    """

    def __init__(self, store: Store) -> None:
        """Create the object without calls."""
        self._store = store
        # For each call: the id of its first record, and the number of its records.
        self._calls: set[tuple[str, int]] = set()

    def handler_failure(self, records: Records, error: BaseException) -> ConnectionClosed | None:
        """Return an exception if the handler has caused the loss of the connection, else None.

        When a call loses the connection for the first time, the server may have closed it, for
        example at a restart of the server. So the call is repeated. If the repeated call loses the
        connection, too, although the store answers, the handler is the cause.

        HandlerCalls uses this after each call that ended with an outage of the store.

        Args:
            records: the records of the call.
            error: the exception of the store with which the call ended.

        """
        if not is_connection_loss(error):
            return None
        try:
            self._store.ready()
        except StoreOutage:
            return None
        call = records.ids[0], len(records)
        if call not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                self._calls.clear()
            self._calls.add(call)
            return None
        text = (
            "the call lost its connection to the store for the second time, although the"
            f" store answers ({error}): a handler must not close the connection, and its statements"
            " must not end it"
        )
        failure = ConnectionClosed(text)
        failure.__cause__ = error
        return failure
