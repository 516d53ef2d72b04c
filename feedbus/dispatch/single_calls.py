"""Calls of handlers of one record, one after the other; their messages are sent together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from feedbus.broker.publisher import WINDOW
from feedbus.bus.sender import Sender
from feedbus.bus.spool import MEMORY_BYTES
from feedbus.dispatch.decoded_deliveries import Decoded, Inputs, InvalidRecord
from feedbus.dispatch.dispatch import Dispatch
from feedbus.dispatch.publications import Publications, send_together
from feedbus.errors import Outage
from feedbus.records import Records
from feedbus.wire import Delivery


@dataclass(frozen=True, slots=True)
class HandledRecord:
    """A record that was handled, and the messages that its handler published."""

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
        self._published: list[HandledRecord] = []
        self._messages = self._bytes = 0

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
            published = self._outcomes(delivery, opened, inputs)
        except Outage:
            self._blocked.expect_repetition(opened)
            raise
        self._opened.append(opened)
        for each in published:
            self._published.append(each)
            self._messages += len(each.publications)
            self._bytes += each.publications.body_bytes

    def _outcomes(self, delivery: Delivery, opened: Decoded, inputs: Inputs) -> list[HandledRecord]:
        """Call the handler for each record, and return the messages of the calls."""
        dispatch, calls = self._dispatch, self._dispatch.calls
        published: list[HandledRecord] = []
        for each in inputs:
            if isinstance(each, InvalidRecord):
                self._blocked.decide(each)
                continue
            for chunk in each.chunks:
                for index, row in enumerate(chunk.rows):
                    if self._blocked.waits(opened, row):
                        self._blocked.defer(opened, row)
                        continue
                    if row:
                        self._note(delivery.message_id)  # the time limit is that of one record
                    records: Records = Records((chunk.select((index,)),), (opened,))
                    started = dispatch.clock.monotonic()
                    publications, error = calls.outcome(each.wrapped, records)
                    dispatch.record_ended(opened, row, error, dispatch.clock.monotonic() - started)
                    if publications:
                        published.append(HandledRecord(opened, row, records, publications))
        return published

    def finish(self) -> list[Delivery]:
        """Publish the messages of all handled records, and return the deliveries to acknowledge.

        Raises:
            Outage: the broker or store is unavailable; the call may be repeated.

        """
        published = self._published
        if published:
            errors = send_together(self._sender, [each.publications for each in published])
            for each, error in zip(published, errors, strict=True):
                if error is not None:
                    classified = self._dispatch.calls.classify_error(each.records, error)
                    self._dispatch.record_failed(each.opened, each.row, classified)
            self._clear_published()
        self._dispatch.finish(self._opened, self._note)
        deliveries = [opened.delivery for opened in self._opened]
        self._opened = []
        return deliveries

    def forget(self) -> None:
        """Forget all deliveries: the broker delivers them again."""
        self._opened = []
        self._clear_published()

    def _clear_published(self) -> None:
        for each in self._published:
            each.publications.discard()
        self._published = []
        self._messages = self._bytes = 0
