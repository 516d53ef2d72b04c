"""Calls of handlers of one record, one after the other; their messages are sent together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from feedbus.broker.publisher import WINDOW
from feedbus.bus.sender import Sender
from feedbus.bus.spool import MEMORY_BYTES
from feedbus.dispatch.decoded_deliveries import Decoded, Inputs, InvalidRecord
from feedbus.dispatch.dispatch import Dispatch
from feedbus.dispatch.publications import Publications, send_plain
from feedbus.dispatch.waiting_record_exceptions import Waits
from feedbus.errors import Outage
from feedbus.records import Records
from feedbus.wire import Delivery


@dataclass(frozen=True, slots=True)
class HandledRecord:
    """A record that was handled, and the messages that its handler published.

    Attributes:
        opened: the delivery of the record.
        row: the index of the record in the delivery.
        records: the record, as a batch of one.
        publications: the messages.

    """

    opened: Decoded
    row: int
    records: Records
    publications: Publications


class SingleCalls:
    """Calls a handler for one record at a time, and keeps the deliveries until they are settled."""

    def __init__(self, dispatch: Dispatch, sender: Sender, note: Callable[[str], None]) -> None:
        """Create the object; `note` is called with each message id before the handler is called."""
        self._dispatch = dispatch
        self._blocked = dispatch.blocked
        self._sender = sender
        self._note = note
        self._opened: list[Decoded] = []
        self._published: deque[HandledRecord] = deque()  # records whose messages are not sent yet
        self._messages = self._bytes = 0  # of these messages

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self._opened)

    @property
    def message_ids(self) -> list[str]:
        """The message ids of the deliveries."""
        return [opened.delivery.message_id for opened in self._opened]

    @property
    def full(self) -> bool:
        """Whether to call finish() now: many messages wait, or the dead handler must be called."""
        if self._messages >= WINDOW or self._bytes >= MEMORY_BYTES:
            return True
        return self._dispatch.has_dead_handler and bool(self._opened and self._opened[-1].decisions)

    def call(self, delivery: Delivery) -> None:
        """Handle the records of a delivery that arrived after all others.

        Raises:
            Outage: something is unavailable; no attempt is counted; call this method again with the
                delivery.

        """
        self._note(delivery.message_id)
        (opened,), inputs = self._dispatch.decode((delivery,))
        try:
            self._handle(delivery, opened, inputs)
        except Outage:
            self._blocked.expect_repetition(opened)
            while self._published and self._published[-1].opened is opened:
                self._published.pop().publications.discard()
            raise
        self._opened.append(opened)

    def _handle(self, delivery: Delivery, opened: Decoded, inputs: Inputs) -> None:
        """Call the handler for each record, and keep the messages of the calls."""
        dispatch, calls = self._dispatch, self._dispatch.calls
        for each in inputs:
            if isinstance(each, InvalidRecord):
                self._send_published()
                self._blocked.decide(each)
                continue
            for chunk in each.chunks:
                for index, row in enumerate(chunk.rows):
                    if self._blocked.waits(opened, row):
                        self._blocked.defer(opened, row)
                        continue
                    if row:
                        # The time limit of the handler begins again for each record.
                        self._note(delivery.message_id)
                    records: Records = Records((chunk.select((index,)),), (opened,))
                    started = dispatch.clock.monotonic()
                    publications, error = calls.outcome(each.wrapped, records)
                    seconds = dispatch.clock.monotonic() - started
                    if error is not None:
                        error = self._after_earlier(opened, row, error)
                    dispatch.record_ended(opened, row, error, seconds)
                    if publications:
                        self._published.append(HandledRecord(opened, row, records, publications))
                        self._messages += len(publications)
                        self._bytes += publications.body_bytes

    def _after_earlier(self, opened: Decoded, row: int, error: BaseException) -> BaseException:
        """Return the exception of a failed record, after the messages of earlier records were sent.

        If the broker refuses a message of an earlier record of its key, that record has failed
        first, and this record waits for it.
        """
        if self._blocked.ordered:
            self._send_published()
            if self._blocked.waits(opened, row):
                return Waits()
        return error

    def finish(self) -> list[Delivery]:
        """Publish the messages of all handled records, and return the deliveries to acknowledge.

        Raises:
            Outage: the broker or store is unavailable; the call may be repeated.

        """
        self._send_published()
        self._dispatch.finish(self._opened, self._note)
        deliveries = [opened.delivery for opened in self._opened]
        self._opened = []
        return deliveries

    def _send_published(self) -> None:
        """Publish the messages of all handled records; a record fails if its messages are refused.

        If possible, the messages of all records are sent together. Otherwise the messages of each
        record are sent alone: if a record fails, the messages of later records of its key are not
        sent. These records wait, and are handled again.

        Raises:
            Outage: the broker or store is unavailable; the call may be repeated.

        """
        published = self._published
        errors = send_plain(self._sender, [each.publications for each in published])
        while published:
            handled = published[0]
            opened, row, publications = handled.opened, handled.row, handled.publications
            if errors is not None:
                error = errors.popleft()
            elif self._blocked.waits(opened, row):
                self._blocked.defer(opened, row)
                error = None
            else:
                error = publications.error_of_sending()
            if error is not None:
                classified = self._dispatch.calls.classify_error(handled.records, error)
                self._dispatch.record_failed(opened, row, classified)
            publications.discard()
            published.popleft()
        self._messages = self._bytes = 0

    def forget(self) -> None:
        """Forget all deliveries: the broker delivers them again."""
        self._opened = []
        self._clear_published()

    def _clear_published(self) -> None:
        for each in self._published:
            each.publications.discard()
        self._published.clear()
        self._messages = self._bytes = 0
