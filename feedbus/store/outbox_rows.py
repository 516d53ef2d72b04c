"""Publish rows of the outbox in their order, and remove the rows that the broker has accepted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

from feedbus.clock import SYSTEM, Clock
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.logs import EventLog
from feedbus.printable import one_line
from feedbus.store.key_locks import Key
from feedbus.store.protocol import Entry, Store
from feedbus.store.tables import now
from feedbus.wire.message_options import PublishOptions

events = EventLog(__name__)

IN_FLIGHT_SECONDS = 5.0  # younger rows may still be published by the process that added them
ROWS = 100  # published in a round


class RelayBus(Protocol):
    """The methods of a bus that the relay uses."""

    def publish(
        self,
        exchange: str,
        payload: Mapping[str, Any],
        key: str = "",
        *,
        message_id: str | None,
        **options: Unpack[PublishOptions],
    ) -> None:
        """Publish a message; return when the broker has confirmed it, otherwise raise."""

    def close(self) -> None:
        """Close the connection; the next publish opens another."""


def options_of(entry: Entry, clock: Clock) -> PublishOptions:
    """Return the options of a row; the time in the outbox counts for expiry and delay."""
    options: PublishOptions = json.loads(entry.options) if entry.options else {}
    waited = max(now(clock) - entry.created_at, 0) / 1_000_000
    if (expires := options.get("expires")) is not None:
        options["expires"] = max(float(expires) - waited, 0.001)
    if (delay := options.get("delay")) is not None:
        options["delay"] = float(delay) - waited if float(delay) > waited else None
    return options


def _publish(bus: RelayBus, entry: Entry, clock: Clock) -> None:
    payload, options = json.loads(entry.payload), options_of(entry, clock)
    bus.publish(entry.exchange, payload, entry.key, message_id=entry.message_id, **options)


def accepted(
    bus: RelayBus, entries: Iterable[Entry], clock: Clock, stuck: set[Key] | None = None
) -> Iterator[int]:
    """Publish rows in order; yield the id of each row that the broker has accepted.

    After a refused row, the later rows of the same exchange and key are not published, so that
    their order is kept; all other rows are published.

    Args:
        bus: publishes the messages.
        entries: the rows.
        clock: the clock for the times in the rows.
        stuck: the keys of rows that were refused before; the keys of newly refused rows are added.

    Raises:
        Outage: the broker is unavailable.

    """
    stuck = set() if stuck is None else stuck
    for entry in entries:
        if (entry.exchange, entry.key) in stuck:
            continue
        try:
            _publish(bus, entry, clock)
        except (PublishError, UsageError) as error:
            stuck.add((entry.exchange, entry.key))
            events.warning(
                "outbox_message_refused",
                "the broker refused a message; it and the later messages of the same exchange"
                " and key stay in the outbox, and feedbus will try again",
                row=entry.id,
                exchange=entry.exchange,
                key=entry.key,
                error=one_line(error),
            )
        else:
            yield entry.id


def publish_entries(
    store: Store,
    bus: RelayBus,
    entries: Iterable[Entry],
    clock: Clock = SYSTEM,
    stuck: set[Key] | None = None,
) -> int:
    """Publish rows, remove the rows that the broker has accepted, and return their number.

    The arguments have the same meaning as for accepted().

    Raises:
        Outage: the broker is unavailable; rows that were confirmed before are removed.

    """
    sent: list[int] = []
    try:
        for row in accepted(bus, entries, clock, stuck):
            sent.append(row)  # noqa: PERF402 -- rows that were published before an error are removed, too
    finally:
        if sent:
            with store.transaction():
                store.outbox.remove(sent)
    return len(sent)


def publish_pending(  # noqa: PLR0913 -- options, each given by name
    store: Store,
    bus: RelayBus,
    project: str,
    *,
    limit: int = ROWS,
    older_than_seconds: float = IN_FLIGHT_SECONDS,
    clock: Clock = SYSTEM,
    choose: Callable[[Sequence[Entry]], Sequence[Entry]] = tuple,
) -> int:
    """Publish and remove leftover rows in order; return how many were published.

    Only one process does this at a time. In other processes, the function returns 0.

    Args:
        store: the store with the outbox.
        bus: publishes the messages, with the message ids of the rows, so that repetitions are
            recognised.
        project: the project of the rows.
        limit: rows in a round; rounds are repeated until no row is left.
        older_than_seconds: younger rows are left to the process that added them.
        clock: the clock for the times in the store's rows.
        choose: returns the rows of a round to publish; the others stay.

    Raises:
        Outage: the store or the broker is unavailable.

    """
    published, after = 0, 0
    stuck: set[Key] = set()  # also for rows that are added while earlier ones are refused
    while True:
        failure: Outage | None = None
        with store.exclusive(f"relay.{project}") as held:
            entries = store.outbox.pending(limit, older_than_seconds, after=after) if held else []
            try:
                published += publish_entries(store, bus, choose(entries), clock, stuck)
            except Outage as error:
                failure = error  # the removals until then are committed
        if failure is not None:
            raise failure
        if not entries:
            return published
        after = entries[-1].id
