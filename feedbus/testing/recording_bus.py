"""A bus that records the messages of a handler, for tests of one handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from feedbus.bus import Bus
from feedbus.bus.record_encoding import Encoder, pack_pairs
from feedbus.inline.loaded_projects import project
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, pack_of_one
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import (
    as_mappings,
    check_columns,
    check_many,
    taken,
    without_key,
)
from feedbus.records.publish_options import envelope_of
from feedbus.records.published_parts import Part
from feedbus.testing.observations import Published
from feedbus.topology import Topology
from feedbus.wire.message_options import Envelope


class RecordingBus(Bus):
    """A bus for tests of one handler: it sends nothing, and appends the records to `published`.

    Args:
        topology: the file, or the parsed topology, for the check of exchanges, payloads and keys.
            None to accept any exchange.

    Attributes:
        published: the published records, in order. They are copies, so they stay unchanged if the
            handler changes a payload later.

    Example:
        >>> bus = RecordingBus("topology.toml")
        >>> reserve(order, bus)
        >>> [each.key for each in bus.published]
        ['mail.ann']
    """

    def __init__(self, topology: str | Path | Topology | None = None) -> None:
        """Create the bus.

        Args:
            topology: the file, or the parsed topology. The bus then raises the errors that a real
                bus raises for an invalid message. None for a bus that accepts every exchange.

        """
        self.published: list[Published] = []
        self._encoder = None if topology is None else Encoder(project(topology).topology)

    def _has_shards(self, exchange: str) -> bool:
        return self._encoder is not None and self._encoder.shard_count(exchange) > 0

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Payload, str]],
    ) -> int:
        """Append one record for each (payload, key) pair to `published`; return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: the payload and the routing key of each record.

        Raises:
            TypeError: an argument has a wrong type, or an item is not a (payload, key) pair.
            UsageError: there is no such exchange, or a payload or key cannot be published.
        """
        check_many(exchange, pairs)
        found = as_mappings(taken(pairs, iter(pairs), 0))
        for pack in pack_pairs(found, "recorded"):
            if self._encoder is not None:
                self._encoder.encode(exchange, pack)
        for payload, key in found:
            self._record(exchange, payload, key)
        return len(found)

    def publish_columns(
        self,
        exchange: str,
        columns: Mapping[str, Sequence[Any]],
        keys: Sequence[str] | str,
        *,
        shared: Mapping[str, Any] | None = None,
    ) -> int:
        """Append one record for each key to `published`; return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            columns: maps the names of fields to their values, one value for each record.
            keys: the routing key of each record, or the name of the column that contains the keys.
            shared: maps the names of fields to values that all records have; None for none.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: there is no such exchange, a column has another length than the keys, or a
                payload or key cannot be published.
        """
        check_columns(exchange, columns, keys, shared)
        pack = Pack.numbered("", keys, shared or {}, columns)
        rows = map(pack.payload, range(len(pack)))
        return self.publish_many(exchange, zip(rows, pack.keys, strict=True))

    def _publish_enveloped(
        self, exchange: str, fields: Mapping[str, Any], key: str, envelope: Envelope
    ) -> None:
        if self._encoder is not None:
            self._encoder.encode(exchange, pack_of_one("recorded", key, fields), envelope)
        self._record(exchange, fields, key, envelope)

    def publish_part(self, part: Part) -> None:
        """Append the messages of a part to `published`.

        The Records object that is the argument of a batch handler calls this when the handler
        publishes. Records.of([…], bus=bus) creates a Records object that publishes to this bus.

        Args:
            part: the messages of one call of publish() or publish_many() of Records.

        Raises:
            UsageError: there is no such exchange, or a payload or key cannot be published.
        """
        envelope = envelope_of(part.options) if part.options else None
        if part.lacks_key:
            part.key = without_key(part.exchange, has_shards=self._has_shards(part.exchange))
        pack = part.pack(Ids("recorded", range(len(part))))
        if self._encoder is not None:
            self._encoder.encode(part.exchange, pack)
        for index, key in enumerate(pack.keys):
            self._record(part.exchange, pack.payload(index), key, envelope)

    def _record(
        self, exchange: str, payload: Mapping[str, Any], key: str, envelope: Envelope | None = None
    ) -> None:
        options = envelope.options() if envelope is not None else {}
        self.published.append(Published(exchange, key, deepcopy(dict(payload)), options=options))
