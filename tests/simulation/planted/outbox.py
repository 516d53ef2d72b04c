"""Faults of the outbox: which rows are left, and in which order they are sent."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

from feedbus.bus import committed_messages, outbox_requests, shared_sender, transactions
from feedbus.dispatch import publications
from feedbus.errors import StoreOutage
from feedbus.store import key_locks, leftover_rows, outbox_publishing
from feedbus.store import relay as relays
from feedbus.wire.constants import PACK
from tests.simulation.planted.change import Change, edited


class _Forgetful(set[Any]):
    """A set that stays empty."""

    def add(self, _item: Any) -> None:
        """Do nothing."""


def lost_answers_taken_for_rollbacks() -> list[Change]:
    """Forget the rows of a transaction whose commit was not answered."""
    original = leftover_rows.LeftoverRows.add

    def add(self: Any, rows: Any) -> None:
        if not isinstance(sys.exc_info()[1], StoreOutage):
            original(self, rows)

    return [(leftover_rows.LeftoverRows, "add", add)]


def own_rows_sent_past_refused_ones() -> list[Change]:
    """Send messages although the broker has refused earlier ones of their keys."""
    original = publications.Publications._send_rows

    def send(self: Any, rows: Any) -> bool:
        original(self, rows)
        return True

    return [(publications.Publications, "_send_rows", send)]


def refused_rows_overtaken() -> list[Change]:
    """Publish the later rows of a key whose row the broker has refused."""
    original = outbox_publishing.publish_in_waves

    def accepted(bus: Any, rows: Any, _stuck: Any = None) -> Any:
        return original(bus, rows, _Forgetful())

    return [
        (outbox_publishing, "publish_in_waves", accepted),
        (relays, "publish_in_waves", accepted),
    ]


def refused_keys_forgotten_between_rounds() -> list[Change]:
    """Publish a row that was added while an earlier one of its key was refused."""
    original = outbox_publishing.publish_and_remove

    def publish(store: Any, bus: Any, rows: Any, _stuck: Any = None) -> int:
        return original(store, bus, rows)

    return [(outbox_publishing, "publish_and_remove", publish)]


def packs_sent_before_single_messages() -> list[Change]:
    """Send the packs of several requests before their single messages."""
    original = shared_sender.SharedSender._send

    def send(self: Any, requests: Any, timeout_seconds: float, refused: Any = None) -> None:
        def has_no_pack(request: Any) -> bool:
            return all(each.content_type != PACK for each in self._encode(request))

        original(self, sorted(requests, key=has_no_pack), timeout_seconds, refused)

    return [(shared_sender.SharedSender, "_send", send)]


def refused_messages_overtaken_in_a_transaction() -> list[Change]:
    """Send the messages of a transaction although an earlier one of their key was refused."""
    original = shared_sender.SharedSender._send

    def send(self: Any, requests: Any, timeout_seconds: float, refused: Any = None) -> None:
        del refused
        original(self, requests, timeout_seconds)

    return [(shared_sender.SharedSender, "_send", send)]


def rows_of_refused_packs_removed() -> list[Change]:
    """Remove the rows of a pack that the broker has refused from the outbox."""
    original = transactions._confirmed_ids

    def confirmed(request: Any, ids: Any, refusals: Any) -> Any:
        packs = any(each.message.content_type == PACK for each in refusals)
        return list(ids) if packs else original(request, ids, refusals)

    return [(transactions, "_confirmed_ids", confirmed)]


def rows_sent_without_the_locks_of_their_keys() -> list[Change]:
    """Let two threads send rows of one key at the same time."""
    return [(key_locks.KeyLocks, "hold", lambda *_: nullcontext())]


def rows_in_use_relayed() -> list[Change]:
    """Let a relay publish rows that another thread of its process is publishing."""
    return [(relays.Relay, "_leave_out_published", lambda _: tuple)]


def keys_of_the_first_page_only() -> list[Change]:
    """Send new rows after the leftover rows of only some of their keys."""

    def keys(self: Any, first_row: int, last_row: int) -> set[Any]:
        page = leftover_rows.PAGE_ROWS
        rows = self._store.outbox.pending(page, after=first_row - 1, up_to=last_row)
        return {(row.exchange, row.key) for row in rows}

    return [(leftover_rows.LeftoverRows, "_keys", keys)]


def refused_leftovers_removed() -> list[Change]:
    """Remove leftover rows from the outbox that the broker has refused."""
    original = publications.Publications._send_wave

    def send(self: Any, rows: Any) -> bool:
        sent: bool = original(self, rows)
        self._remove([each.id for each in rows])
        return sent

    return [(publications.Publications, "_send_wave", send)]


def refused_packs_overtaken() -> list[Change]:
    """Send a request although a request with packs was refused whose keys it has."""
    added = "refused.update(request.refused_keys())"
    return edited(shared_sender.SharedSender, "_send", added, "pass")


def refused_leftovers_of_a_bus_removed() -> list[Change]:
    """Remove the leftover rows that the broker has refused when a bus publishes them."""
    accepted, answered = "request.outcome == []", "not isinstance(request.outcome, Exception)"
    ((_, name, confirmed),) = edited(outbox_requests, "confirmed_rows", accepted, answered)
    return [(committed_messages, name, confirmed)]


def busy_keys_forgotten_between_rounds() -> list[Change]:
    """Let the relay publish a key that another thread used only in an earlier round."""
    busy = "busy.update(self._locks.in_use())"
    return edited(relays.Relay, "_leave_out_published", busy, "busy = self._locks.in_use()")


def published_ids_forgotten_during_a_removal() -> list[Change]:
    """Forget rows that were published while a relay has removed earlier ones."""
    removed = "del self._published_ids[: len(ids)]"
    return edited(relays.Relay, "_remove_published", removed, "self._published_ids.clear()")


def published_ids_read_before_the_locks() -> list[Change]:
    """Let a relay read which rows are published, and then which keys other threads use."""

    def leave_out_published(self: Any) -> Any:
        busy: set[Any] = set()

        def choose(rows: Any) -> list[Any]:
            published_ids = set(self._published_ids)
            busy.update(self._locks.in_use())
            others = (each for each in rows if each.id not in published_ids)
            return [each for each in others if (each.exchange, each.key) not in busy]

        return choose

    return [(relays.Relay, "_leave_out_published", leave_out_published)]


def first_keys_of_later_pages_skipped() -> list[Change]:
    """Skip a row of a sender between two pages of its rows whose keys are read."""
    after = "after = rows[-1].id"
    return edited(leftover_rows.LeftoverRows, "_keys", after, "after = rows[-1].id + 1")


def leftovers_of_another_thread_forgotten() -> list[Change]:
    """Forget a row that another thread has left while this one has queried the outbox."""
    kept = "if self._registrations == registrations:"
    return edited(leftover_rows.LeftoverRows, "may_contain", kept, "if True:")
