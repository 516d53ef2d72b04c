"""Faults of small messages beside large ones."""

from __future__ import annotations

from feedbus.runner import (
    batch_mode,
    buffer,
    handling_during_publishing,
    small_deliveries,
)
from tests.simulation.planted.change import Change, edited


def records_that_overtake_their_key() -> list[Change]:
    """Let a small message overtake a large one with records of its key."""
    return [(small_deliveries.SmallDeliveries, "_keys_of", lambda *_: frozenset())]


def pauses_that_forget_what_is_handled() -> list[Change]:
    """Handle a record in a pause although a record of its key is in the handler."""
    return [(handling_during_publishing._Call, "keys", property(lambda _: frozenset()))]


def fences_overtaken() -> list[Change]:
    """Treat a fence and the messages behind it as small messages."""
    return [(small_deliveries, "FENCE", "none")]


def large_messages_settled_too_soon() -> list[Change]:
    """Acknowledge a large message with a small one that is handled between its slices."""
    return [(handling_during_publishing.PublishingPauses, "paused_tags", property(lambda _: set()))]


def overtaken_messages_settled_too_soon() -> list[Change]:
    """Acknowledge what waits with a message that has overtaken it."""
    return [(buffer.Buffer, "has_before", lambda *_: False)]


def outages_in_pauses_forgotten() -> list[Change]:
    """Drop the messages of a pause that has met an outage."""
    return [(buffer.Buffer, "put_back", lambda *_: None)]


def pauses_that_hide_a_lost_connection() -> list[Change]:
    """Go on with a large message whose connection was lost in a pause."""
    return [(handling_during_publishing._Call, "error", property(lambda _: None, lambda *_: None))]


def pauses_settled_before_their_errors() -> list[Change]:
    """Settle a call that was made in a pause before the error of its own pause is raised."""
    settled = "    self._finish_batch("
    return edited(batch_mode.BatchMode, "_handle_in_pause", settled, f"    {settled}")
