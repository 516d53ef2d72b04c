"""Faults of publishing, the outbox and the acknowledgement of deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedbus.broker import publisher, unconfirmed_messages
from feedbus.broker.refused_messages import NACKED
from feedbus.bus import batch_bus, sender
from feedbus.dispatch import (
    publications,
)
from feedbus.errors import BrokerOutage
from feedbus.records import ids
from feedbus.runner import (
    buffer,
    queue_reader,
)
from feedbus.store import inbox_table, leftover_rows, outbox_publishing
from tests.simulation.planted.change import Change, edited


def an_early_acknowledgement() -> list[Change]:
    """Acknowledge all deliveries, not only the handled ones."""

    def settle(self: queue_reader.QueueReader, _tag: int) -> None:
        held = getattr(self.channel, "_unsettled", {})
        if held:
            self.channel.basic_ack(max(held), multiple=True)

    return [(queue_reader.QueueReader, "settle_up_to", settle)]


def a_confirm_taken_for_another() -> list[Change]:
    """Take each confirm for that of the message that has waited longest."""

    def answered(self: Any, tag: int, *, multiple: bool) -> list[int]:
        del tag, multiple
        return list(self.messages_by_tag)[:1]

    return [(unconfirmed_messages.UnconfirmedMessages, "_take_answered", answered)]


def confirms_that_nobody_awaits() -> list[Change]:
    """Return from a publish as soon as the messages are written to the connection."""

    def drain(self: Any) -> None:
        self._unconfirmed.messages_by_tag.clear()

    return [(publisher.Publisher, "_await_confirms", drain)]


def refused_keys_forgotten_at_the_next_window() -> list[Change]:
    """Send a message although an earlier one of its key was refused, before its window."""

    def hold_back(messages: Any, _refusals: Any) -> tuple[Any, list[Any]]:
        return messages, []

    return [(publisher, "hold_back", hold_back), (sender, "hold_back", hold_back)]


def an_outage_taken_for_success() -> list[Change]:
    """Take a lost connection for a publish that has succeeded."""
    original = sender.Sender._send_window

    def send(self: Any, messages: Any) -> list[Any]:
        try:
            return original(self, messages)
        except BrokerOutage:
            return []

    return [(sender.Sender, "_send_window", send)]


def a_relay_that_deletes_too_soon() -> list[Change]:
    """Delete the rows of the outbox before the broker has confirmed their messages."""
    original = outbox_publishing.publish_and_remove

    def publish(store: Any, bus: Any, rows: Any, *rest: Any) -> int:
        rows = list(rows)
        with store.transaction():
            store.outbox.remove([each.id for each in rows])
        return original(store, bus, rows, *rest)

    return [(outbox_publishing, "publish_and_remove", publish)]


def an_inbox_that_is_not_asked() -> list[Change]:
    """Handle records again that were handled before."""
    original = inbox_table.SqlInbox.add_new

    def add_new(self: Any, queue: str, ids: Any) -> list[str]:
        original(self, queue, ids)
        return list(ids)

    return [(inbox_table.SqlInbox, "add_new", add_new)]


def deliveries_of_a_lost_connection() -> list[Change]:
    """Go on with what an earlier connection has delivered."""
    return [(buffer.Buffer, "clear", lambda _: None)]


def stale_packs_refused() -> list[Change]:
    """Never take a pack apart whose ring is not current any more."""
    return [(sender, "_is_outdated_pack", lambda _: False)]


def a_return_taken_for_a_confirm() -> list[Change]:
    """Ignore that the broker returns a message which no queue accepts."""
    return [(unconfirmed_messages.UnconfirmedMessages, "_on_return", lambda *_: None)]


def multiple_confirms_that_answer_one_more() -> list[Change]:
    """Take a multiple confirm for that of the next message, too."""

    def answered(self: Any, tag: int, *, multiple: bool) -> list[int]:
        if not multiple:
            return [tag] if tag in self.messages_by_tag else []
        return [each for each in self.messages_by_tag if each <= tag + 1]

    return [(unconfirmed_messages.UnconfirmedMessages, "_take_answered", answered)]


def returns_matched_by_their_key() -> list[Change]:
    """Take the first message of an exchange and a key for the one that was returned."""

    def on_return(self: Any, error: Exception, exchange: str, key: str, message: Any) -> None:
        del message
        tag = self._find_first(lambda each: (each.exchange, each.routing_key) == (exchange, key))
        if tag is not None:
            self._returned_tag = tag
            self._returned[tag] = str(error)

    return [(unconfirmed_messages.UnconfirmedMessages, "_on_return", on_return)]


def refusals_forgotten_at_the_next_attempt() -> list[Change]:
    """Forget the returned messages when messages that a full queue has refused are sent again."""

    def send(self: Any, messages: Any) -> list[Any]:
        started = self._clock.monotonic()
        while True:
            refusals: list[Any] = self._publish(messages)
            nacked = {id(each.message) for each in refusals if each.reason == NACKED}
            messages = [each for each in messages if id(each) in nacked]
            seconds = self._clock.monotonic() - started
            if not messages or seconds >= self._nacked_seconds:
                return refusals
            self.close()
            self._clock.sleep(publisher.NACKED_PAUSE_SECONDS)

    return [(publisher.Publisher, "_send_window", send)]


def leftovers_overtaken() -> list[Change]:
    """Send messages before those of their keys that an earlier process left in the outbox."""
    return [(leftover_rows.LeftoverRows, "may_contain", lambda *_: False)]


def an_outbox_cleared_before_the_confirms() -> list[Change]:
    """Delete a handler's rows from the outbox before its messages are sent."""
    original = publications.Publications._send_own

    def send(self: Any) -> None:
        self._store.outbox.remove(self._rows)
        original(self)

    return [(publications.Publications, "_send_own", send)]


def stale_packs_in_another_order() -> list[Change]:
    """Take the packs for an old ring apart in another order than they were sent."""
    original = sender.Sender._send_unpacked

    def send(self: Any, publisher: Any, packs: Any) -> Any:
        return original(self, publisher, packs[::-1])

    return [(sender.Sender, "_send_unpacked", send)]


def ids_that_two_descendants_share() -> list[Change]:
    """Give the first message of a record the ordinal of the record.

    So the second message of a record's first child has the id of the first message of its second.
    """
    original = batch_bus.BatchBus._derive_ids

    def children(ordinal: int, first: int, count: int) -> Sequence[int]:
        digits = max(1, -(-ordinal.bit_length() // ids.DIGIT_BITS))
        step = 1 << ids.DIGIT_BITS * digits
        return range(ordinal + first * step, ordinal + (first + count) * step, step)

    def children_of(self: Any, exchange: str, causes: Sequence[int]) -> Any:
        self._message_counts[exchange].update(
            dict.fromkeys(causes, 0)
        )  # so that it calls child_ordinals()
        return original(self, exchange, causes)

    return [
        (batch_bus, "child_ordinals", children),
        (batch_bus.BatchBus, "_derive_ids", children_of),
    ]


def ids_of_earlier_messages_used_again() -> list[Change]:
    """Number the messages of a record from the start again when they are sent in several parts."""
    counted = "caused[cause] += count"
    return edited(batch_bus.BatchBus, "_derive_ids", counted, "pass")


def deliveries_put_back_behind_later_ones() -> list[Change]:
    """Put a delivery back behind later deliveries of its queue."""
    found = "index = next(later, len(lane.deliveries))"
    return edited(buffer.Buffer, "put_back", found, "index = len(lane.deliveries)")


def single_confirms_taken_for_multiple_ones() -> list[Change]:
    """Take the confirm of one message for that of all earlier ones, too."""
    owner = unconfirmed_messages.UnconfirmedMessages
    return edited(owner, "_take_answered", "if not multiple:", "if False:")


def messages_that_are_held_back_not_reported() -> list[Change]:
    """Return no refusal of a message that was held back, because its key was refused."""
    return edited(sender.Sender, "send", "refusals += held", "pass")


def refused_messages_sent_again_in_the_order_of_their_refusals() -> list[Change]:
    """Send refused messages again in the order in which the broker has refused them."""
    owner, order = publisher.Publisher, "[each for each in messages if id(each) in nacked]"
    refused = "[each.message for each in new_refusals if each.reason == NACKED]"
    return edited(owner, "_send_window", order, refused)
