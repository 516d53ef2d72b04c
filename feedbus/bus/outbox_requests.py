"""Publish requests for the rows of the outbox."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from feedbus.bus.publish_requests import Request
from feedbus.clock import Clock
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.publish_options import envelope_of
from feedbus.store.outbox_publishing import options_of
from feedbus.store.protocol import Outbox, OutboxRow
from feedbus.wire.message_options import Envelope


def request_of(row: OutboxRow, clock: Clock) -> Request:
    """Return the request that publishes a committed row of the outbox.

    The bus and the dispatch call this for leftover rows: committed rows whose messages were not
    sent. The relay calls this for all its rows, through LiveBus.publish_rows().

    Args:
        row: the row.
        clock: the clock of the broker. The time since the row was added is subtracted from the
            delay and from the time for which the message may wait in a queue.

    """
    pack = pack_of_one(row.message_id, row.key, json.loads(row.payload))
    return Request(row.exchange, pack, envelope_of(options_of(row, clock)))


def put_records(
    outbox: Outbox,
    exchange: str,
    pack: Pack,
    payloads: Iterable[Mapping[str, Any]],
    envelope: Envelope | None = None,
) -> list[int]:
    """Add records to an outbox with their common options; return the ids of the rows.

    It is called for each publish within a transaction.

    Args:
        outbox: the outbox of the store. The caller is in a transaction of this store.
        exchange: the name of the exchange in topology.toml.
        pack: the records.
        payloads: the result of Encoder.outbox_payloads() for the records.
        envelope: the checked options of publish(), such as the delay; None if no option is set.

    """
    rows = zip(pack.keys, payloads, pack.ids, strict=True)
    options = envelope.options() if envelope is not None else None
    return outbox.put_many(exchange, rows, options)


def confirmed_rows(rows: Sequence[OutboxRow], requests: Sequence[Request]) -> list[int]:
    """Return the ids of the rows whose requests the broker has confirmed.

    The caller then removes these rows from the outbox.

    Args:
        rows: rows of the outbox.
        requests: the request of each row, in the same order. The requests were sent.

    """
    pairs = zip(rows, requests, strict=True)
    return [row.id for row, request in pairs if request.outcome == []]
