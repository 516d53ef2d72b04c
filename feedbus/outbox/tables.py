"""The framework's own tables: messages still to be published, and messages already handled."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import peewee

from feedbus.outbox.connection import bound, database, on_postgres

SLICE = 1_000  # rows a statement: SQLite takes 32,766 parameters


def _now_us() -> int:
    return time.time_ns() // 1_000


class Outbox(peewee.Model):
    """A record that is committed with its cause and not yet known to be on the broker."""

    id = peewee.BigAutoField()
    exchange = peewee.TextField()
    routing_key = peewee.TextField()
    payload = peewee.TextField()
    message_id = peewee.TextField()
    created_at = peewee.BigIntegerField(default=_now_us)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "feedbus_outbox"


class Inbox(peewee.Model):
    """A message that a consumer's queue has handled, so that a repeat has no second effect."""

    queue = peewee.TextField()
    message_id = peewee.TextField()
    created_at = peewee.BigIntegerField(default=_now_us, index=True)

    class Meta:
        """Where it is stored."""

        database = database
        table_name = "feedbus_inbox"
        primary_key = peewee.CompositeKey("queue", "message_id")


TABLES: tuple[type[peewee.Model], ...] = (Outbox, Inbox)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the outbox; its message id stays the same however often it is published.

    exchange is the topology's name of it, payload a JSON object as text.
    """

    id: int
    exchange: str
    key: str
    payload: str
    message_id: str


def create_tables() -> None:
    """Create the outbox and the inbox where they are missing."""
    bound().create_tables(TABLES, safe=True)


def drop_tables() -> None:
    """Drop the outbox and the inbox with all that they hold."""
    bound().drop_tables(TABLES, safe=True)


def put(
    exchange: str, payload: Mapping[str, Any], key: str = "", *, message_id: str | None = None
) -> Entry:
    """Add a message to the outbox, within the caller's transaction.

    Args:
        exchange: the topology's name of it.
        payload: a JSON object.
        key: the routing key.
        message_id: derived from the message that caused this one; otherwise made up and kept.

    """
    text, name = _text(payload), message_id or uuid.uuid4().hex
    marks = ", ".join([bound().param] * 5)
    made = bound().execute_sql(
        "INSERT INTO feedbus_outbox (exchange, routing_key, payload, message_id, created_at)"  # noqa: S608 -- no input in it
        f" VALUES ({marks}) RETURNING id",
        (exchange, key, text, name, _now_us()),
    )
    return Entry(int(made.fetchone()[0]), exchange, key, text, name)


def put_many(exchange: str, rows: Iterable[tuple[str, Mapping[str, Any], str]]) -> list[int]:
    """Add (routing key, payload, message id) rows in order; returns the ids to remove them by."""
    ids: list[int] = []
    moment_us, left = _now_us(), iter(rows)
    while slice_ := list(islice(left, SLICE)):
        values = [(exchange, key, _text(payload), name, moment_us) for key, payload, name in slice_]
        added = Outbox.insert_many(
            values,
            [
                Outbox.exchange,
                Outbox.routing_key,
                Outbox.payload,
                Outbox.message_id,
                Outbox.created_at,
            ],
        ).returning(Outbox.id)
        ids += [row.id for row in added.execute()]
    return ids


def _text(payload: Mapping[str, Any]) -> str:
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def pending(limit: int = 100, older_than_seconds: float = 0.0, *, after: int = 0) -> list[Entry]:
    """Return the oldest rows of the outbox, in the order in which they were put.

    Args:
        limit: at most so many.
        older_than_seconds: leave younger ones to those who put them and publish them now. What is
            as far in the future was put before the clock was set back, and is not young.
        after: only rows with an id above this.

    """
    now_us, margin_us = _now_us(), int(older_than_seconds * 1_000_000)
    old = (Outbox.created_at <= now_us - margin_us) | (Outbox.created_at > now_us + margin_us)
    rows = Outbox.select().where(Outbox.id > after, old).order_by(Outbox.id).limit(limit)
    return [
        Entry(row.id, row.exchange, row.routing_key, row.payload, row.message_id) for row in rows
    ]


def remove(ids: Sequence[int]) -> int:
    """Delete rows whose messages the broker has confirmed; returns how many there were."""
    return sum(
        int(Outbox.delete().where(Outbox.id.in_(ids[start : start + SLICE])).execute())
        for start in range(0, len(ids), SLICE)
    )


def seen(queue: str, ids: Sequence[str]) -> list[str]:
    """Return those of some messages that a queue has handled before."""
    distinct = list(dict.fromkeys(ids))
    found = Inbox.select(Inbox.message_id).where(
        Inbox.queue == queue, Inbox.message_id.in_(distinct)
    )
    return [row.message_id for row in found]


def unseen(queue: str, ids: Sequence[str]) -> list[str]:
    """Note these messages as handled by a queue, and return those that were not before.

    In a transaction with the handler's effects: both commit or neither. A message that comes
    twice in ids is returned once.
    """
    distinct = list(dict.fromkeys(ids))
    if not distinct:
        return []
    values: tuple[str, int, object]
    if on_postgres():
        source, values = "unnest(%s::text[]) AS given(value)", (queue, _now_us(), distinct)
    else:
        source, values = "json_each(?)", (queue, _now_us(), json.dumps(distinct))
    mark = bound().param
    # WHERE true: SQLite would otherwise read ON CONFLICT as a join's condition.
    rows = bound().execute_sql(
        "INSERT INTO feedbus_inbox (queue, message_id, created_at) "  # noqa: S608 -- no input in it
        f"SELECT {mark}, value, {mark} FROM {source} WHERE true "
        "ON CONFLICT DO NOTHING RETURNING message_id",
        values,
    )
    new = {row[0] for row in rows.fetchall()}
    return [each for each in distinct if each in new]


def forget(older_than_seconds: float) -> int:
    """Delete inbox rows so old that no repeat of their messages can come any more."""
    oldest = _now_us() - int(older_than_seconds * 1_000_000)
    return int(Inbox.delete().where(Inbox.created_at < oldest).execute())
