"""Publish requests for the rows of the outbox."""

from __future__ import annotations

import json
from collections.abc import Sequence

from feedbus.bus.publish_requests import Request
from feedbus.clock import Clock
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.publish_options import envelope_of
from feedbus.store.outbox_publishing import options_of
from feedbus.store.protocol import Outbox, OutboxRow
from feedbus.wire.message_options import Envelope


def request_of(row: OutboxRow, clock: Clock) -> Request:
    """Return the request that publishes a row of the outbox, which a transaction has committed.

    The bus, the relay and the dispatch call this for leftover rows.

    Args:
        row: the row.
        clock: the clock of the broker, for the rest of the row's delay and expiration.

    """
    pack = pack_of_one(row.message_id, row.key, json.loads(row.payload))
    return Request(row.exchange, pack, envelope_of(options_of(row, clock)))


def put_records(
    outbox: Outbox, exchange: str, pack: Pack, envelope: Envelope | None = None
) -> list[int]:
    """Add records to an outbox with their common options; return the ids of the rows.

    It is called for each publish within a transaction.

    Args:
        outbox: the outbox of the store, in whose transaction the caller is.
        exchange: the name of the exchange in topology.toml.
        pack: the records.
        envelope: the checked options of publish(), such as the delay; None if no option is set.

    """
    rows = ((pack.key(index), pack.payload(index), pack.ids[index]) for index in range(len(pack)))
    options = envelope.options() if envelope is not None else None
    return outbox.put_many(exchange, rows, options)


def confirmed_rows(rows: Sequence[OutboxRow], requests: Sequence[Request]) -> list[int]:
    """Return the ids of the rows whose requests the broker has confirmed.

    The caller then removes these rows from the outbox.

    Args:
        rows: rows of the outbox.
        requests: for each row, its request after it was sent.

    """
    pairs = zip(rows, requests, strict=True)
    return [row.id for row, request in pairs if request.outcome == []]
