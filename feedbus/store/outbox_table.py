"""The outbox, on SQLite or PostgreSQL: messages that were committed, and are not sent yet."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Unpack

from feedbus.codecs import BodyEncoder
from feedbus.records.payloads import Payload, encode_record, payload_text
from feedbus.records.publish_arguments import (
    NO_KEY,
    check_id,
    check_keys,
    check_record,
    without_key,
)
from feedbus.records.publish_options import envelope_of
from feedbus.store.protocol import OutboxRow
from feedbus.store.tables import ROWS_AT_ONCE, Database, Table, now
from feedbus.topology import Topology
from feedbus.wire.message_options import PublishOptions

ROW = ("routing_key", "payload", "message_id")  # the values of a message in put_many()


class SqlOutbox(Table):
    """The outbox of one project, in the table feedbus_outbox."""

    def __init__(self, database: Database, project: str) -> None:
        """Create the object.

        Args:
            database: the database that has the table.
            project: the name of the project; other projects can have rows in the same table.
        """
        super().__init__(database, project)
        if self._sqlite:
            columns = ", ".join(f"json_extract(value, '$[{place}]')" for place in range(len(ROW)))
            source = "json_each(:rows) ORDER BY key"
        else:
            columns = ", ".join(ROW)
            arrays = ", ".join(f"CAST(:{name} AS text[])" for name in ROW)
            source = f"unnest({arrays}) WITH ORDINALITY AS given({columns}, place) ORDER BY place"
        self._put_rows = (
            "INSERT INTO feedbus_outbox"  # noqa: S608 -- no input in it
            " (project, exchange, created_at, options, routing_key, payload, message_id)"
            f" SELECT :project, :exchange, :now, CAST(:options AS text), {columns} FROM {source}"
            " RETURNING id"
        )
        self._topology: Topology | None = None

    def check_exchanges(self, topology: Topology) -> None:
        """Make put() refuse messages that can never be sent to the exchanges of a topology.

        Before this call, put() accepts any exchange, and encodes each payload as JSON. The method
        is called once, when the store of a topology is opened.

        Args:
            topology: the topology of the store.
        """
        self._topology, self._bodies = topology, BodyEncoder(topology)

    def put(
        self,
        exchange: str,
        payload: Payload,
        key: str = NO_KEY,
        *,
        message_id: str | None = None,
        **options: Unpack[PublishOptions],
    ) -> OutboxRow:
        """Add a message in the caller's transaction, and return its row.

        Args:
            exchange: the name of the exchange in topology.toml.
            payload: a mapping, or an instance of a message type.
            key: the routing key. An exchange with shards needs a key, because the key selects the
                shard. The key "" is allowed: all messages with this key go to the same shard.
                Without shards, the key is "" by default.
            message_id: the id of the message; by default a random id.
            options: `headers`, `priority` (0 to 255), `expires` and `delay`. `expires` and `delay`
                are each a number of seconds, or a text such as "30s".

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: there is no such exchange, the record cannot be published, or the exchange
                has shards and there is no key.
            ValueError: an option is out of its limits.
        """
        fields = check_record(exchange, payload, key, message_id)
        envelope = envelope_of(options, "message_id")
        declared = self._topology.exchange(exchange) if self._topology is not None else None
        if key is NO_KEY:
            key = without_key(exchange, has_shards=declared is not None and declared.hashed)
        check_keys([key])
        if message_id:
            check_id(message_id)
        options_text = None if envelope is None else json.dumps(envelope.options())
        if declared is None:
            text = encode_record(fields).decode()
        else:
            text = self._bodies.outbox_text(declared, fields)
        created_at = now(self._clock)
        message_id = message_id or self._clock.unique()
        (row,) = self._put(exchange, [(key, text, message_id)], options_text, created_at)
        return OutboxRow(row, exchange, key, text, message_id, options_text, created_at)

    def put_many(
        self,
        exchange: str,
        rows: Iterable[tuple[str, Mapping[str, Any], str]],
        options: PublishOptions | None = None,
    ) -> list[int]:
        """Add messages in the caller's transaction, in order; return the ids of their rows.

        Args:
            exchange: the name of the exchange in topology.toml.
            rows: a (routing key, payload, message id) tuple for each message.
            options: the headers, priority, expires and delay of all messages; the caller has
                checked them. None for no options.
        """
        ids: list[int] = []
        created_at, remaining = now(self._clock), iter(rows)
        options_text = json.dumps(options) if options else None
        while some_rows := [
            (key, payload_text(payload), message_id)
            for key, payload, message_id in islice(remaining, ROWS_AT_ONCE)
        ]:
            ids += self._put(exchange, some_rows, options_text, created_at)
        return ids

    def _put(
        self,
        exchange: str,
        rows: Sequence[tuple[str, str, str]],
        options: str | None,
        created_at: int,
    ) -> list[int]:
        """Add rows by one statement; return their ids, in order.

        Args:
            exchange: the name of the exchange of all rows.
            rows: a (routing key, payload as JSON text, message id) tuple for each row.
            options: the options of all rows, as JSON text; None for no options.
            created_at: the time of all rows, in microseconds since 1970.

        """
        parameters = {
            "project": self._project,
            "exchange": exchange,
            "now": created_at,
            "options": options,
        }
        result = self._execute(self._put_rows, parameters | self._rows(rows))
        return sorted(int(row[0]) for row in result.fetchall())

    def _rows(self, rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
        """Return the SQL parameters that contain the rows, for the statement of _put()."""
        if self._sqlite:
            return {"rows": json.dumps(rows, ensure_ascii=False)}
        return dict(zip(ROW, map(list, zip(*rows, strict=True)), strict=True))

    def pending(
        self,
        limit: int = 100,
        older_than_seconds: float = 0.0,
        *,
        after: int = 0,
        up_to: int | None = None,
        keys: Collection[tuple[str, str]] | None = None,
    ) -> list[OutboxRow]:
        """Return the oldest rows, in the order in which they were added.

        Args:
            limit: the largest number of rows to return.
            older_than_seconds: the smallest age of a returned row. A younger row is not returned,
                because the process that added the row may still be publishing it. A row has no
                known age if the clock was set back after the row was added. So a row is also
                returned if its time is in the future by more than `older_than_seconds`.
            after: only rows with a higher id.
            up_to: only rows with this id or a lower one; None for all ids.
            keys: only rows with one of these pairs of exchange and routing key; None for all rows.
        """
        present, margin = now(self._clock), int(older_than_seconds * 1_000_000)
        conditions = [
            "project = :project AND id > :after",
            "(created_at <= :oldest OR created_at > :future)",
        ]
        parameters = {
            "project": self._project,
            "after": after,
            "oldest": present - margin,
            "future": present + margin,
            "limit": limit,
        }
        if up_to is not None:
            conditions.append("id <= :up_to")
            parameters["up_to"] = up_to
        if keys is not None:
            conditions.append(f"(exchange, routing_key) IN (SELECT {self._pairs})")
            parameters |= self._pair_values(keys)
        rows = self._execute(
            "SELECT id, exchange, routing_key, payload, message_id, options, created_at"  # noqa: S608 -- no input in it
            f" FROM feedbus_outbox WHERE {' AND '.join(conditions)} ORDER BY id LIMIT :limit",
            parameters,
        )
        return [OutboxRow(*row) for row in rows.fetchall()]

    @property
    def _pairs(self) -> str:
        """The SQL after SELECT that reads pairs of exchange and routing key from the parameters.

        pending() uses it to find the rows with these pairs. _pair_values() returns the parameters.
        """
        if self._sqlite:
            columns = "json_extract(value, '$[0]'), json_extract(value, '$[1]')"
            return f"{columns} FROM json_each(:pairs)"
        return "* FROM unnest(CAST(:pair_exchanges AS text[]), CAST(:pair_keys AS text[]))"

    def _pair_values(self, pairs: Collection[tuple[str, str]]) -> dict[str, Any]:
        if self._sqlite:
            return {"pairs": json.dumps(list(pairs), ensure_ascii=False)}
        exchanges, keys = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return {"pair_exchanges": exchanges, "pair_keys": keys}

    def remove(self, ids: Sequence[int]) -> int:
        """Delete rows by their ids, after the broker has confirmed the messages.

        Returns:
            The number of deleted rows; another process may have deleted some before.

        """
        if not ids:
            return 0
        source = self._values("ids", "bigint")
        sql = f"DELETE FROM feedbus_outbox WHERE id IN (SELECT value FROM {source})"  # noqa: S608 -- no input in it
        return sum(
            self._execute(sql, {"ids": self._list(ids[start : start + ROWS_AT_ONCE])}).rowcount
            for start in range(0, len(ids), ROWS_AT_ONCE)
        )
