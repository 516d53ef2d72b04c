"""Call handlers for one record after the other, and send the messages of these calls together.

The runner uses this module in its group mode, in which handlers have no transaction. call() is
called for each delivery of a group, and then finish() for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from feedbus.broker.publisher import WINDOW
from feedbus.bus.sender import Sender
from feedbus.bus.spool import MEMORY_BYTES
from feedbus.dispatch.decoded_deliveries import DecodedDelivery, Inputs, InvalidRecord
from feedbus.dispatch.dispatch import Dispatch
from feedbus.dispatch.publications import Publications, send_with_one_wait
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits
from feedbus.errors import Outage
from feedbus.records import Records
from feedbus.wire import Delivery


@dataclass(frozen=True, slots=True)
class HandledRecord:
    """A record that was handled, and the messages that its handler published.

    SingleCalls keeps it until finish() sends the messages.

    Attributes:
        decoded: the delivery of the record.
        row: the index of the record in the delivery.
        records: the record, as a batch of one.
        publications: the messages, which are not sent yet.

    """

    decoded: DecodedDelivery
    row: int
    records: Records
    publications: Publications


class SingleCalls:
    """Calls a handler for one record at a time, and keeps the deliveries until they are settled.

    The group mode of the runner uses it: deliveries are handled one after the other, and then
    acknowledged together. Each consumer process has one SingleCalls object.
    """

    def __init__(
        self, dispatch: Dispatch, sender: Sender, before_call: Callable[[str], None]
    ) -> None:
        """Create the object without deliveries.

        Args:
            dispatch: decodes the deliveries, and decides on failed records.
            sender: sends the messages that handlers publish.
            before_call: called with the id of a message before each call of its handler, and before
                the dead handler can be called.

        """
        self._dispatch = dispatch
        self._blocked_keys = dispatch.blocked_keys
        self._sender = sender
        self._before_call = before_call
        self._decoded_deliveries: list[DecodedDelivery] = []
        self._unsent: deque[HandledRecord] = deque()  # records whose messages are not sent yet
        # The number of these messages, and the size of their bodies.
        self._unsent_messages = self._unsent_bytes = 0

    def __len__(self) -> int:
        """Count the deliveries that were handled, and that finish() has not returned yet."""
        return len(self._decoded_deliveries)

    @property
    def message_ids(self) -> list[str]:
        """The message ids of the deliveries that were handled and are not settled."""
        return [decoded.delivery.message_id for decoded in self._decoded_deliveries]

    @property
    def is_full(self) -> bool:
        """Whether to call finish() now: there are many unsent messages, or a record has failed.

        A failed record matters only if the queue has a dead handler. finish() may call the dead
        handler, which can end the process. If finish() is called at once, only the deliveries up to
        the one with the failed record are then handled again.
        """
        if self._unsent_messages >= WINDOW or self._unsent_bytes >= MEMORY_BYTES:
            return True
        return self._dispatch.has_dead_handler and bool(
            self._decoded_deliveries and self._decoded_deliveries[-1].decisions
        )

    def call(self, delivery: Delivery) -> None:
        """Handle the records of a delivery that arrived after all earlier ones.

        The group mode calls this for each delivery of a group.

        Args:
            delivery: the delivery.

        Raises:
            Outage: the broker, or something else that the handler needs, is unavailable. No attempt
                is counted. The caller must call this method again with the delivery.

        """
        self._before_call(delivery.message_id)
        (decoded,), inputs = self._dispatch.decode((delivery,))
        try:
            self._handle(delivery, decoded, inputs)
        except Outage:
            self._blocked_keys.expect_repetition(decoded)
            while self._unsent and self._unsent[-1].decoded is decoded:
                self._unsent.pop().publications.discard()
            raise
        self._decoded_deliveries.append(decoded)

    def _handle(self, delivery: Delivery, decoded: DecodedDelivery, inputs: Inputs) -> None:
        """Call the handler for each record, and keep the messages that the calls publish."""
        dispatch, calls = self._dispatch, self._dispatch.calls
        for each in inputs:
            if isinstance(each, InvalidRecord):
                # The messages of earlier records are sent first. If the broker refuses one of them,
                # its record has failed, and an invalid record of the same key must wait.
                self._send_messages()
                self._blocked_keys.decide(each)
                continue
            for chunk in each.chunks:
                for index, row in enumerate(chunk.rows):
                    if self._blocked_keys.is_blocked(decoded, row):
                        self._blocked_keys.defer(decoded, row)
                        continue
                    if row:
                        # The time limit of the handler begins again for each record of a pack.
                        self._before_call(delivery.message_id)
                    records: Records = Records((chunk.select((index,)),), (decoded,))
                    started = dispatch.clock.monotonic()
                    publications, error = calls.call(each.wrapped, records)
                    seconds = dispatch.clock.monotonic() - started
                    if error is not None:
                        error = self._error_after_earlier(decoded, row, error)
                    dispatch.end_record(decoded, row, error, seconds)
                    if publications:
                        self._unsent.append(HandledRecord(decoded, row, records, publications))
                        self._unsent_messages += len(publications)
                        self._unsent_bytes += publications.body_bytes

    def _error_after_earlier(
        self, decoded: DecodedDelivery, row: int, error: BaseException
    ) -> BaseException:
        """Return the exception that counts for a failed record: `error` or EarlierRecordWaits.

        On a queue with `order_by`, the messages of all earlier records are sent first. If the
        broker refuses a message of a record with the same key, that record has failed, too. Then
        the failed record must wait for that earlier record, and the result is EarlierRecordWaits.
        Without `order_by`, nothing is sent, and the result is `error`.

        Args:
            decoded: the delivery of the failed record.
            row: the index of the failed record in the delivery.
            error: the exception that the handler has raised for the record.

        Raises:
            Outage: the broker is unavailable.

        """
        if self._blocked_keys.has_order:
            self._send_messages()
            if self._blocked_keys.is_blocked(decoded, row):
                return EarlierRecordWaits()
        return error

    def finish(self) -> list[Delivery]:
        """Publish the messages of all handled records, and return the deliveries to acknowledge.

        The group mode calls this at the end of a group.

        Raises:
            Outage: the broker is unavailable, or the dead handler raised Outage; the call may be
                repeated.

        """
        self._send_messages()
        self._dispatch.finish(self._decoded_deliveries, self._before_call)
        deliveries = [decoded.delivery for decoded in self._decoded_deliveries]
        self._decoded_deliveries = []
        return deliveries

    def _send_messages(self) -> None:
        """Publish the messages of all handled records; a record fails if its messages are refused.

        Usually, the messages of all records are sent together. Otherwise, for example if one of the
        messages is a pack, the messages of one record are sent after those of another. If a record
        fails then, the messages of the later records of its key are not sent. These records wait,
        and are handled again.

        Raises:
            Outage: the broker is unavailable; the call may be repeated.

        """
        unsent = self._unsent
        errors = send_with_one_wait(self._sender, [each.publications for each in unsent])
        while unsent:
            handled = unsent[0]
            decoded, row, publications = handled.decoded, handled.row, handled.publications
            if errors is not None:
                error = errors.popleft()
            elif self._blocked_keys.is_blocked(decoded, row):
                self._blocked_keys.defer(decoded, row)
                error = None
            else:
                error = publications.try_to_send()
            if error is not None:
                classified = self._dispatch.calls.classify_error(handled.records, error)
                self._dispatch.fail_record(decoded, row, classified)
            publications.discard()
            unsent.popleft()
        self._unsent_messages = self._unsent_bytes = 0

    def forget(self) -> None:
        """Forget all deliveries and their unsent messages.

        The caller returns the deliveries to the broker or has lost the connection, so the broker
        delivers them again.
        """
        self._decoded_deliveries = []
        self._discard_unsent()

    def _discard_unsent(self) -> None:
        for each in self._unsent:
            each.publications.discard()
        self._unsent.clear()
        self._unsent_messages = self._unsent_bytes = 0
