"""Publish requests for the rows of the outbox."""

from __future__ import annotations

import json
from collections.abc import Sequence

from feedbus.bus.publish_requests import Request
from feedbus.clock import Clock
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.publish_options import envelope_of
from feedbus.store.outbox_publishing import options_of
from feedbus.store.protocol import Entry, Outbox
from feedbus.wire.message_options import Envelope


def request_of(entry: Entry, clock: Clock) -> Request:
    """Return the request that publishes a row of the outbox.

    Args:
        entry: the row.
        clock: the clock of the broker, for the rest of the row's delay and expiration.

    """
    pack = pack_of_one(entry.message_id, entry.key, json.loads(entry.payload))
    return Request(entry.exchange, pack, envelope_of(options_of(entry, clock)))


def put_records(
    outbox: Outbox, exchange: str, pack: Pack, envelope: Envelope | None = None
) -> list[int]:
    """Add records to an outbox with their common options; return the ids of the rows."""
    rows = ((pack.key(index), pack.payload(index), pack.ids[index]) for index in range(len(pack)))
    options = envelope.options() if envelope is not None else None
    return outbox.put_many(exchange, rows, options)


def confirmed_rows(entries: Sequence[Entry], requests: Sequence[Request]) -> list[int]:
    """Return the ids of the rows whose requests the broker has confirmed.

    Args:
        entries: rows of the outbox.
        requests: for each row, its request after it was sent.

    """
    pairs = zip(entries, requests, strict=True)
    return [entry.id for entry, request in pairs if request.answer == []]
