"""Faults of what follows a crash while messages are in the handler, and an outage."""

from __future__ import annotations

from typing import Any

from kombu.connection import Connection

from feedbus.broker import connection_without_reconnect
from feedbus.runner import base_mode, crash_guard, group
from feedbus.transports.sqlite import delivery_owners, queued_messages
from tests.simulation import connection
from tests.simulation.planted.change import Change, edited


def crashes_counted_against_a_whole_batch() -> list[Change]:
    """Count a crash against each message of a batch, instead of none."""
    original = crash_guard.CrashGuard.blame

    def blame(self: Any, message_ids: Any, cause: str) -> None:
        for each in message_ids:
            original(self, [each], cause)

    return [(crash_guard.CrashGuard, "blame", blame)]


def crashes_counted_during_an_outage() -> list[Change]:
    """Leave a message in the file of the crash guard while its consumer waits."""
    original = base_mode.Mode._hold

    def wait_out(self: Any, raw: Any, error: Any) -> bool:
        guard = self._run.crash_guard
        guard.release = lambda: None
        try:
            return original(self, raw, error)
        finally:
            del guard.release

    return [(base_mode.Mode, "_hold", wait_out)]


def records_of_an_outage_skipped() -> list[Change]:
    """Go on with the next record when the handler of a record has met an outage."""
    original = group.Group.handle

    def handle(self: Any, *arguments: Any) -> Any:
        self._delivery_in_call = None
        return original(self, *arguments)

    return [(group.Group, "handle", handle)]


def calls_repeated_on_another_connection() -> list[Change]:
    """Repeat a call after a lost connection, whose delivery comes again."""
    return [(group.Group, "forget", lambda self: self._calls.forget())]


def deliveries_that_were_given_up_acknowledged() -> list[Change]:
    """Go on with the connection after its deliveries were given up in an outage."""
    original = base_mode.Mode._hold

    def wait_out(self: Any, raw: Any, error: Any) -> bool:
        goes_on = original(self, raw, error)
        self._run.has_given_up = False
        return goes_on

    return [(base_mode.Mode, "_hold", wait_out)]


def lost_connections_opened_again() -> list[Change]:
    """Let Kombu open a lost connection again, whose lock another process may have."""

    def open_again(self: Any, *arguments: Any, **options: Any) -> Any:
        return Connection._ensure_connection(self, *arguments, **options)

    return [(connection_without_reconnect.SingleConnection, "_ensure_connection", open_again)]


def redelivered_flags_lost() -> list[Change]:
    """Deliver a message again without the flag that it was delivered before."""
    counted, delivered = "count = returns + delivered", "count = returns"
    ((_, name, put_back),) = edited(queued_messages, "put_back", counted, delivered)
    return [(owner, name, put_back) for owner in (queued_messages, delivery_owners, connection)]


def crashes_never_counted() -> list[Change]:
    """Handle a message again and again although it has ended many processes."""
    return [(crash_guard.CrashGuard, "blame", lambda *_: None)]
