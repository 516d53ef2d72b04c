"""The messages that one call of a handler publishes: encoded immediately, sent after the commit.

On a queue with `once = true`, each published record is also a row of the outbox, which is committed
with the handler's own rows. When the broker has confirmed the message of the record, the row is
removed. If the message is not sent, for example because the process is killed, the row is a
leftover row. Leftover rows must be sent before later messages with the same keys. A later call or
the relay sends them.

The effects of the call and the rows are committed together. So if the broker refuses a message, the
record of the call has not failed: the message stays in the outbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from feedbus.broker.refused_messages import Refusal, error_of, raise_refused
from feedbus.bus.outbox_requests import put_records, request_of
from feedbus.bus.sender import Sender
from feedbus.bus.spool import Spool
from feedbus.errors import Outage, PublishError, StoreOutage
from feedbus.records.packs import Pack
from feedbus.store import Store
from feedbus.store.leftover_rows import PAGE_ROWS, LeftoverRows
from feedbus.store.outbox_publishing import log_messages_left, split_into_waves
from feedbus.store.protocol import OutboxRow
from feedbus.store.thread_state import thread_state
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK
from feedbus.wire.message_options import Envelope

# With `stream = true`, the collected messages are sent as soon as one of these numbers is reached.
# With smaller numbers, the handler would wait for the broker more often.
STREAM_RECORDS, STREAM_MESSAGES = 20_000, 5_000


class Publications(Spool):
    """The messages of one call of a handler, which wait for the commit of its transaction.

    The object is created for each call of a handler, and is used until the messages are sent or
    discarded.
    """

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
            store: the store with the outbox.
            leftovers: the leftover rows, which are sent before these messages; None if the messages
                do not go into the outbox.
            stream: whether messages are sent in slices during the call; see STREAM_RECORDS.
            after_slice: called after each slice.

        """
        super().__init__()
        self._sender = sender
        self._store = store
        self._leftovers = leftovers
        self._stream = stream
        self._after_slice = after_slice
        self._rows: list[int] = []  # the ids of the messages' rows in the outbox
        self._refusals: Sequence[Refusal] = ()  # messages with rows that the broker has refused
        self._unsent_records = 0  # the number of records since the latest slice was sent

    @contextmanager
    def call(self, *, in_transaction: bool) -> Iterator[Any]:
        """Enter the block that calls the handler; if the block fails, forget all messages.

        Yields the session of the store, or None without a transaction.

        Args:
            in_transaction: whether the block is a transaction of the store, which ends with it.

        """
        try:
            with self._store.transaction() if in_transaction else nullcontext() as session:
                thread_state.in_transaction = self._store.in_transaction
                try:
                    yield session
                finally:
                    thread_state.in_transaction = False
        except BaseException as error:
            # After an outage of the store, the rows can be in the outbox: the connection may have
            # been lost during the commit. After any other error, they are not in the outbox.
            maybe_committed = isinstance(error, StoreOutage) or self._store.is_outage(error)
            if self._leftovers is not None and not maybe_committed:
                self._leftovers.remove_sender(self)
                self._rows = []
            self.discard()
            raise

    def collect(self, exchange: str, pack: Pack, envelope: Envelope | None = None) -> None:
        """Add records that a bus publishes; with `stream`, send a slice if it is complete.

        The bus that the handler uses calls this for each publish().

        Args:
            exchange: the name of the exchange.
            pack: the records.
            envelope: the common options of the records; None if they have no options.

        Raises:
            PublishError: the broker did not accept a message of the slice.
            Outage: the broker is unavailable.

        """
        encoder = self._sender.encoder
        messages = encoder.encode(exchange, pack, envelope)
        self.add(messages)
        if self._leftovers is not None:
            payloads = encoder.outbox_payloads(exchange, pack, messages)
            self._rows += put_records(self._store.outbox, exchange, pack, payloads, envelope)
            self._leftovers.register_sender(self, self._rows)
        if self._stream:
            self._unsent_records += len(pack)
            if self._unsent_records >= STREAM_RECORDS or len(self) >= STREAM_MESSAGES:
                raise_refused(self._sender.send(self))
                self.clear()
                self._unsent_records = 0
                # The calls of a pause must not join a transaction that this handler has begun, in
                # which their effects could be rolled back.
                if not (thread_state.in_transaction or self._store.in_transaction):
                    self._after_slice()

    def send(self) -> None:
        """Send all messages, after the commit; return when the broker has confirmed them.

        If the messages are rows of the outbox, the leftover rows with the same keys are sent first.
        A leftover row is a committed row whose message was not sent. If one of the leftover rows
        cannot be sent now, the messages of this call are not sent either. Then this method raises
        no exception: all these rows stay in the outbox, and the relay sends the rows in order. It
        also raises no exception if the broker refuses a message that is a row of the outbox.

        Raises:
            PublishError: the broker did not accept a message, which has no row in the outbox.
            Outage: the broker is unavailable.

        """
        if self._leftovers is None or not self._rows:
            self._send_own()
            return
        try:
            with self._leftovers.hold_earlier(self._rows[0], self._rows[-1]) as earlier:
                if earlier is not None and self._send_rows(earlier):
                    self._send_own()
        except Exception as error:
            if isinstance(error, Outage) or self._store.is_outage(error):
                raise
            log_messages_left(error)
        finally:
            self.leave_in_outbox()
        self.clear()
        self._rows, self._refusals = [], ()

    def leave_in_outbox(self) -> None:
        """Leave the rows that are still in the outbox to a later call or to the relay.

        Called when the messages of these rows are not sent now.
        """
        if self._leftovers is not None:
            self._leftovers.remove_sender(self)
            if self._rows:
                self._leftovers.add(self._rows)

    def discard(self) -> None:
        """Forget all messages; if some were not sent, leave their rows in the outbox for the relay.

        This method is called at the end of each call: the call has failed, its messages were sent,
        or they are not sent because the record will be handled again.
        """
        self.leave_in_outbox()
        self.clear()

    def set_refusals(self, refusals: Sequence[Refusal]) -> None:
        """Register that the messages were sent, and which of them the broker has refused.

        The next send() removes the rows of the other messages from the outbox.

        Args:
            refusals: the refused messages. The messages must be rows of the outbox.

        """
        self.clear()
        self._refusals = refusals

    def _send_own(self) -> None:
        refusals = [*self._refusals, *(self._sender.send(self) if self else ())]
        if not self._rows:
            raise_refused(refusals)
            self.clear()
            return
        if not refusals:
            self._remove(self._rows)
            self._rows = []
            return
        if confirmed := self._confirmed_rows(refusals):
            self._remove(confirmed)
            self._rows = sorted(set(self._rows).difference(confirmed))
        log_messages_left(error_of(refusals))

    def _confirmed_rows(self, refusals: Sequence[Refusal]) -> list[int]:
        """Return the ids of the rows of this call whose messages the broker has accepted.

        Args:
            refusals: the messages of the call that the broker has refused.

        """
        if any(refusal.original.content_type == PACK for refusal in refusals):
            return []  # it is not known which records were accepted
        refused_ids = {refusal.message.message_id for refusal in refusals}
        confirmed, own_rows, after = list[int](), set(self._rows), self._rows[0] - 1
        while rows := self._store.outbox.pending(PAGE_ROWS, after=after, up_to=self._rows[-1]):
            confirmed += [
                row.id for row in rows if row.id in own_rows and row.message_id not in refused_ids
            ]
            after = rows[-1].id
        return confirmed

    def _send_rows(self, rows: Sequence[OutboxRow]) -> bool:
        """Send leftover rows, and remove them; return whether all were sent.

        The rows are divided into waves, groups of rows that are sent together. If the broker
        refuses a row, the later waves are not sent. So rows in later waves do not overtake the
        refused row. On an exchange with shards, rows of the same key are always in different waves:
        see split_into_waves().
        """
        return all(
            map(self._send_wave, split_into_waves(rows, self._sender.encoder.selects_shards))
        )

    def _send_wave(self, rows: Sequence[OutboxRow]) -> bool:
        """Send rows together, and remove the sent ones; return whether all were sent."""
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

    def _remove(self, row_ids: Sequence[int]) -> None:
        """Remove the rows with these ids, whose messages were sent.

        The rows are removed in a transaction. So the time limit of the handler does not count the
        wait for the store's lock.
        """
        with self._store.transaction():
            self._store.outbox.remove(row_ids)

    @property
    def has_rows(self) -> bool:
        """Whether the messages of the call are rows of the outbox."""
        return bool(self._rows)

    @property
    def can_join(self) -> bool:
        """Whether these messages can be sent together with the messages of other calls.

        This is so if they are so small that all of them are in memory, none of them is a pack, and
        no leftover rows must be sent before them.
        """
        if self._leftovers is not None and self._leftovers.may_exist:
            return False
        return self._file is None and all(each.content_type != PACK for each in self._in_memory)

    def try_to_send(self) -> Exception | None:
        """Send all messages, as send() does, but return the error if the messages are refused.

        The group mode and the concurrent mode use it, so that a refusal concerns one call only.

        Returns:
            None if the messages were sent, or the relay will send them. Otherwise PublishError,
            because the broker did not accept a message, or the error of the store.

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

    The concurrent mode calls this when calls of handlers have ended.

    Args:
        sender: sends the messages.
        calls: the messages of each call.

    Returns:
        For each call, None if its messages were sent. Otherwise PublishError, because the broker
        did not accept a message, or the error of the store.

    Raises:
        Outage: the broker is unavailable; the function may be called again.

    """
    errors = send_with_one_wait(sender, calls)
    return [call.try_to_send() for call in calls] if errors is None else [*errors]


def send_with_one_wait(
    sender: Sender, calls: Sequence[Publications]
) -> deque[Exception | None] | None:
    """Send the messages of several calls with one wait for the broker, in the order of the calls.

    The group mode and send_together() call this.

    Args:
        sender: sends the messages.
        calls: the messages of each call.

    Returns:
        For each call, None if its messages were sent. Otherwise PublishError, because the broker
        did not accept a message, or the error of the store. Instead of this list, None if nothing
        was sent: there are no messages, or the messages of each call must be sent alone.

    Raises:
        Outage: the broker is unavailable; the function may be called again.

    """
    if not (any(calls) and all(call.can_join for call in calls)):
        return None
    try:
        refusals = sender.send(message for call in calls for message in call)
    except BaseException:
        for call in calls:
            call.leave_in_outbox()
        raise
    refusals_by_message = {id(refusal.message): refusal for refusal in refusals}
    errors = [_forget_sent(call, refusals_by_message) for call in calls]
    # After a call without an error, no message is left. Then try_to_send() only removes the rows.
    return deque(
        call.try_to_send() if error is None else error
        for call, error in zip(calls, errors, strict=True)
    )


def _forget_sent(
    call: Publications, refusals_by_message: Mapping[int, Refusal]
) -> PublishError | None:
    """Forget the messages of a call after they were sent.

    If the broker has refused some of them, return an error instead. But if the messages are rows of
    the outbox, the result is None: the rows stay there, and the relay sends them.

    Args:
        call: the messages of the call.
        refusals_by_message: maps the id() of a refused message to its refusal.

    """
    own_refusals = (
        [refusals_by_message[id(each)] for each in call if id(each) in refusals_by_message]
        if refusals_by_message
        else []
    )
    if not own_refusals:
        call.clear()
    elif call.has_rows:
        call.set_refusals(own_refusals)
    else:
        return error_of(own_refusals)
    return None
