"""The messages that one call of a handler publishes: encoded immediately, sent after the commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from feedbus.broker.refused_messages import Refusal, raise_refused
from feedbus.bus.outbox_requests import put_records, request_of
from feedbus.bus.sender import Sender
from feedbus.bus.spool import Spool
from feedbus.errors import Outage, PublishError
from feedbus.records.packs import Pack
from feedbus.store import Store
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.store.outbox_publishing import split_into_waves
from feedbus.store.protocol import OutboxRow
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK
from feedbus.wire.message_options import Envelope

# With stream = true, this many records or messages are encoded and sent together. With a smaller
# number, the handler would wait for the broker more often.
STREAM_RECORDS, STREAM_MESSAGES = 20_000, 5_000


class Publications(Spool):
    """Messages that wait for a commit and, with `once`, are also rows of the outbox."""

    def __init__(
        self,
        sender: Sender,
        store: Store,
        leftovers: LeftoverRows | None,
        *,
        stream: bool = False,
        after_slice: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the object without messages.

        Args:
            sender: sends the messages.
            store: the store whose outbox contains them after the commit, so that the relay sends
                them if this process is killed.
            leftovers: the leftover rows that are sent before them; None if the messages do not go
                into the outbox.
            stream: whether they are sent during the call, STREAM_RECORDS records or
                STREAM_MESSAGES messages together.
            after_slice: called after each of these sends.

        """
        super().__init__()
        self._sender = sender
        self._store = store
        self._leftovers = leftovers
        self._stream = stream
        self._after_slice = after_slice
        self._rows: list[int] = []  # the ids of the messages' rows in the outbox
        self._unsent_records = 0  # the number of records since the latest slice was sent

    def collect(self, exchange: str, pack: Pack, envelope: Envelope | None = None) -> None:
        """Add records that a bus publishes."""
        self.add(self._sender.encoder.encode(exchange, pack, envelope))
        if self._leftovers is not None:
            self._rows += put_records(self._store.outbox, exchange, pack, envelope)
            self._leftovers.register_sender(self, self._rows)
        if self._stream:
            self._unsent_records += len(pack)
            if self._unsent_records >= STREAM_RECORDS or len(self) >= STREAM_MESSAGES:
                raise_refused(self._sender.send(self))
                self.clear()
                self._unsent_records = 0
                self._after_slice()

    def send(self) -> None:
        """Send all messages; return when the broker has confirmed them.

        Rows with the same keys that were left in the outbox are sent first. If that is not possible
        now, the messages are left in the outbox, too: the relay sends all of them in order.

        Raises:
            PublishError: the broker did not accept a message.

        """
        if self._leftovers is None or not self._rows:
            self._send_own()
            return
        try:
            with self._leftovers.hold_earlier(self._rows[0], self._rows[-1]) as earlier:
                if earlier is not None and self._send_rows(earlier):
                    self._send_own()
        finally:
            self.leave_in_outbox()
        self.clear()
        self._rows = []

    def leave_in_outbox(self) -> None:
        """Leave the rows of these messages in the outbox; the messages are not sent now."""
        if self._leftovers is not None and self._rows:
            self._leftovers.remove_sender(self)
            self._leftovers.add(self._rows[-1])

    def discard(self) -> None:
        """Forget all messages; rows that are not sent are left in the outbox."""
        self.leave_in_outbox()
        self.clear()

    def discard_after_error(self, *, maybe_committed: bool) -> None:
        """Forget all messages, after an error of the transaction."""
        if self._leftovers is not None and not maybe_committed:
            self._leftovers.remove_sender(self)
            self._rows = []
        self.discard()

    def _send_own(self) -> None:
        if self:
            raise_refused(self._sender.send(self))
            self.clear()
        if self._rows:
            self._remove(self._rows)
            self._rows = []
            if self._leftovers is not None:
                self._leftovers.remove_sender(self)

    def _send_rows(self, rows: Sequence[OutboxRow]) -> bool:
        """Send rows that were left in the outbox, and remove them; return whether all were sent."""
        return all(
            map(self._send_wave, split_into_waves(rows, self._sender.encoder.selects_shards))
        )

    def _send_wave(self, rows: Sequence[OutboxRow]) -> bool:
        assert self._leftovers is not None  # noqa: S101 -- for the type checker
        row_ids_by_message: dict[int, int] = {}
        messages: list[Outgoing] = []
        for row in rows:
            request = request_of(row, self._leftovers.clock)
            encoded = self._sender.encoder.encode(request.exchange, request.pack, request.envelope)
            row_ids_by_message |= {id(message): row.id for message in encoded}
            messages += encoded
        for refusal in self._sender.send(messages):
            row_ids_by_message.pop(id(refusal.original), None)
        self._remove(list(row_ids_by_message.values()))
        return len(row_ids_by_message) == len(rows)

    def _remove(self, rows: Sequence[int]) -> None:
        """Remove rows that were sent.

        In a transaction, a wait for the store's lock does not count as time of the handler.
        """
        with self._store.transaction():
            self._store.outbox.remove(rows)

    @property
    def can_join(self) -> bool:
        """Whether these are few messages without packs, so that they can be sent with others."""
        if self._leftovers is not None and self._leftovers.may_exist:
            return False
        return self._file is None and all(each.content_type != PACK for each in self._in_memory)

    def try_to_send(self) -> Exception | None:
        """Send all messages, and return the error of the broker or the outbox, if any.

        Raises:
            Outage: the broker is unavailable.

        """
        try:
            self.send()
        except Outage:
            raise
        except Exception as error:  # noqa: BLE001 -- an error of the store, which may be an outage
            return error
        return None


def send_together(sender: Sender, calls: Sequence[Publications]) -> list[Exception | None]:
    """Send the messages of several calls, in the order of the calls.

    Returns:
        For each call, the result that try_to_send() would return.

    Raises:
        Outage: the broker is unavailable; the call may be repeated.

    """
    errors = send_with_one_wait(sender, calls)
    return [call.try_to_send() for call in calls] if errors is None else [*errors]


def send_with_one_wait(
    sender: Sender, calls: Sequence[Publications]
) -> deque[Exception | None] | None:
    """Send the messages of several calls with one wait for the broker, in the order of the calls.

    Returns:
        For each call, the result that try_to_send() would return. None if nothing was sent,
        because each call must be sent alone.

    Raises:
        Outage: the broker is unavailable; the call may be repeated.

    """
    if not (any(calls) and all(call.can_join for call in calls)):
        return None
    try:
        refusals = sender.send(message for call in calls for message in call)
    except BaseException:
        for call in calls:
            call.leave_in_outbox()
        raise
    refused = {id(refusal.message): refusal for refusal in refusals}
    errors = [_finish_call(call, refused) for call in calls]
    return deque(
        call.try_to_send() if error is None else error
        for call, error in zip(calls, errors, strict=True)
    )


def _finish_call(call: Publications, refused: Mapping[int, Refusal]) -> PublishError | None:
    """Forget the messages of a call that were sent; return an error if the broker refused some."""
    own_refusals = [refused[id(each)] for each in call if id(each) in refused] if refused else []
    try:
        raise_refused(own_refusals)
    except PublishError as error:
        call.leave_in_outbox()
        return error
    call.clear()
    return None
