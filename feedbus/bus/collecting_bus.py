"""The bus of a handler of one record: it collects messages, which are sent after the commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from feedbus.bus.interface import Bus
from feedbus.bus.record_encoding import derive_origin, pack_pairs
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.records.key_texts import plain_keys
from feedbus.records.packs import Pack
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import check_columns, check_many, taken
from feedbus.wire.message_options import Envelope


class Collect(Protocol):
    """A function that receives the records that a bus publishes.

    The buses of handlers call it with the name of the exchange, the records, and their common
    options; None if there are none. The records are sent after the commit of the handler's
    transaction. On a queue with `stream = true`, they are sent while the handler runs.
    """

    def __call__(self, exchange: str, pack: Pack, envelope: Envelope | None = None, /) -> None:
        """Receive records for an exchange, with their common options."""


def refuse_late(*_: object) -> NoReturn:
    """Raise UsageError: a handler publishes after it has returned."""
    msg = (
        "the handler has returned, so this message would be lost: publish before the handler"
        " returns; a thread or a task that runs longer than the handler needs its own bus, from"
        " feedbus.connect()"
    )
    raise UsageError(msg)


class CollectingBus(Bus):
    """The bus of a handler of one record; it collects messages, which are sent after the commit.

    The ids of the messages are derived from the id of this record and the name of the queue. An
    object is created for each call of a handler.
    """

    def __init__(
        self,
        records: Records,
        collect: Collect,
        shards: Callable[[str], int] = lambda _: 0,
        *,
        queue: str = "",
    ) -> None:
        """Create the bus of a handler that is called with one record.

        Args:
            records: the record that causes all published messages.
            collect: receives the records, at each call of a publishing method.
            shards: returns the number of shards of an exchange, or 0 for an exchange without
                shards; raises UsageError if there is no such exchange.
            queue: the handler's queue, as Sender.queue_of_ids() returns it. If the handlers of
                several queues publish for the same record, their messages get different ids.

        """
        self._records = records
        self._shards = shards
        self._collect = collect
        self._queue = queue
        # How many publish calls there were with an exchange and a routing key; see _next_origin().
        self._calls: Counter[tuple[str, str | None]] = Counter()

    def _has_shards(self, exchange: str) -> bool:
        return self._shards(exchange) > 0

    def publish_many(self, exchange: str, pairs: Iterable[tuple[Payload, str]]) -> int:
        """Collect (payload, routing key) pairs, and return their number.

        They are sent as records after the commit of the handler's transaction, or while the handler
        runs if the queue sets `stream = true`.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: any iterable of pairs.

        Raises:
            TypeError: an argument has a wrong type, or an item of pairs is not a pair.
            UsageError: there is no such exchange, a record cannot be encoded, or the handler has
                returned.

        """
        check_many(exchange, pairs)
        collected = taken(pairs, iter(pairs), 0)
        for pack in pack_pairs(collected, ""):  # the ids are made in the next lines
            origin = self._next_origin(exchange, pack.keys[0] if len(collected) == 1 else None)
            self._collect(exchange, Pack.numbered(origin, pack.keys, pack.shared, pack.columns))
        return len(collected)

    def publish_columns(
        self,
        exchange: str,
        columns: Mapping[str, Sequence[Any]],
        keys: Sequence[str] | str,
        *,
        shared: Mapping[str, Any] | None = None,
    ) -> int:
        """Collect records given by column, and return their number.

        The records are sent after the commit of the handler's transaction, or while the handler
        runs if the queue sets `stream = true`.

        Args:
            exchange: the name of the exchange in topology.toml.
            columns: the fields in which the records differ. Each is mapped to a list with one value
                per record.
            keys: a list with one routing key per record, or the name of the column that contains
                the routing keys.
            shared: the other fields. Each is mapped to the value that all records have.

        Raises:
            TypeError: an argument has a wrong type.
            UsageError: columns differ in length, `keys` is a name that no column has, there
                is no such exchange, a record cannot be encoded, or the handler has returned.

        """
        check_columns(exchange, columns, keys, shared)
        pack = Pack.numbered(self._next_origin(exchange), keys, shared or {}, columns)
        if len(pack):
            self._collect(exchange, pack)
        return len(pack)

    def _publish_enveloped(
        self, exchange: str, fields: Mapping[str, Any], key: str, envelope: Envelope
    ) -> None:
        (key,) = plain_keys([key])
        pack = Pack.numbered(self._next_origin(exchange, key), [key], fields, {})
        self._collect(exchange, pack, envelope)

    def _next_origin(self, exchange: str, key: str | None = None) -> str:
        """Return the beginning of the message ids of one publish call.

        A handler that runs again for the record makes the same calls, so it gets the same ids.
        Only calls for the same exchange and the same routing key are numbered. So other calls may
        come in another order, for example if they follow the answers to concurrent requests.

        Args:
            exchange: the name of the exchange.
            key: the routing key of the only record of the call; None for a call with several
                records or with columns.

        """
        number = self._calls[exchange, key]
        self._calls[exchange, key] = number + 1
        # The length separates the key from the id of the record.
        call = f"{exchange}/{number}" if key is None else f"{exchange}/{number}/{len(key)} {key}"
        return derive_origin(self._queue, call, *self._records.ids)

    def flush(self) -> None:
        """Refuse calls from now on, because the handler has returned.

        feedbus calls this after each call of the handler. Later calls of publishing methods raise
        UsageError.
        """
        self._collect = refuse_late
