"""Publish what is left in the outbox by processes that committed it and then could not send it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from feedbus.errors import PublishError, UsageError
from feedbus.store.protocol import Entry, Store

log = logging.getLogger(__name__)


class Publisher(Protocol):
    """What the relay needs of a bus."""

    def publish(
        self, exchange: str, payload: Mapping[str, Any], key: str = "", *, message_id: str | None
    ) -> None:
        """Return when the broker has confirmed the message, raise otherwise."""


def publish_entries(store: Store, bus: Publisher, entries: Iterable[Entry]) -> int:
    """Publish these rows in order and remove them; returns how many were published.

    A row that the broker does not accept stays, with those behind it of the same exchange and
    key, so that their order is kept; the others go on.

    Raises:
        Outage: the broker is away; what was confirmed until then is removed.

    """
    sent: list[int] = []
    stuck: set[tuple[str, str]] = set()
    try:
        for entry in entries:
            if (entry.exchange, entry.key) in stuck:
                continue
            try:
                payload = json.loads(entry.payload)
                bus.publish(entry.exchange, payload, entry.key, message_id=entry.message_id)
            except (PublishError, UsageError) as error:
                stuck.add((entry.exchange, entry.key))
                log.warning(
                    "outbox row %d stays: %s with key '%s' was not published: %s",
                    entry.id,
                    entry.exchange,
                    entry.key,
                    error,
                )
            else:
                sent.append(entry.id)
    finally:
        if sent:
            with store.transaction():
                store.outbox.remove(sent)
    return len(sent)


def relay(
    store: Store, bus: Publisher, *, limit: int = 100, older_than_seconds: float = 5.0
) -> int:
    """Publish leftover rows in order and remove them; one process at a time, the others return 0.

    Args:
        store: whose outbox it is.
        bus: where to publish; the message ids are the rows' own, so that a repeat is known.
        limit: rows a round; rounds follow one another until none is left.
        older_than_seconds: younger rows are still in the hands of those who put them.

    Raises:
        Outage: the store or the broker is away.

    """
    published = 0
    with store.exclusive("relay") as held:
        after = 0
        while held and (entries := store.outbox.pending(limit, older_than_seconds, after=after)):
            published += publish_entries(store, bus, entries)
            after = entries[-1].id
    return published
