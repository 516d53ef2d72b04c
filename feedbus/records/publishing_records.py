"""The publishing methods of Records: one message for each record, or many for one record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

from feedbus.errors import UsageError
from feedbus.records.batch import Batch
from feedbus.records.payloads import Payload
from feedbus.records.publish_arguments import (
    NO_KEY,
    check_many,
    copied_pair,
    is_list,
)
from feedbus.records.published_parts import COLUMN, Part, check_fields
from feedbus.units import counted
from feedbus.wire.message_options import PublishOptions
from feedbus.wrong_argument import refuse


class PublishingRecords:
    """The publishing methods of Records.

    The class is only a base class of Records, the records that a batch handler gets.
    """

    __slots__ = ("_batch", "_indexes")

    _batch: Batch  # contains the records; Records sets it
    _indexes: Sequence[int]  # the indexes of the records in the batch, ascending

    def publish(
        self,
        exchange: str,
        *,
        key: str | Sequence[str] = NO_KEY,
        key_column: str | None = None,
        columns: Mapping[str, str | Sequence[Any]] | None = None,
        shared: Mapping[str, Any] | None = None,
        **options: Unpack[PublishOptions],
    ) -> int:
        """Publish one message for each record, and return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            key: the routing key of all messages, or a list with one for each. An exchange with
                shards needs a key.
            key_column: the name of a field in `columns` whose values are the routing keys. The
                caller gives at most one of key and key_column.
            columns: the fields that differ between the messages. It maps the name of a message's
                field to the name of a record's field, or to a list with one value for each record.
            shared: the fields that are the same in all messages.
            options: further options, equal for all messages. `headers` maps names to texts,
                numbers, flags or None. `priority` is a number from 0 to 255. `expires` is how long
                a message may wait in a queue. `delay` is how long feedbus delays a message.
                `expires` and `delay` are a text such as "10m", or a number of seconds. With
                options, each message is sent separately, without packs.

        Example: `readers.publish("mail", key="new", columns={"userId": "id"}, shared={"text": t})`

        Raises:
            TypeError: an argument has a wrong type.
            KeyError: `columns` names a field that a record of the batch does not have.
            UsageError: the length of a list is not the number of records, a key is missing, or
                these Records have no bus.

        """
        check_fields(columns, shared)
        given_columns, given_shared, split = columns or {}, shared or {}, isinstance(key, str)
        named = {field: name for field, name in given_columns.items() if isinstance(name, str)}
        lists = {field: each for field, each in given_columns.items() if not isinstance(each, str)}
        # A list has one value for each record of this object, so the records stay in one part.
        split = split and not lists
        names = [name for field, name in named.items() if split and field != key_column]
        for common, indexes in self._batch.segments(self._indexes, names):
            shared_once = {
                field: common[name]
                for field, name in named.items()
                if name in common and field != key_column
            }
            own_columns = {
                field: self._batch.values(name, indexes)
                for field, name in named.items()
                if field not in shared_once
            }
            all_shared = {**given_shared, **shared_once}
            part = Part(
                exchange, key, key_column, own_columns | lists, all_shared, indexes, options or None
            )
            part.check()
            if lists or not isinstance(key, str):
                part.copy_lists()
            self._collect(part)
        return len(self._indexes)

    def publish_columns(
        self,
        exchange: str,
        columns: Mapping[str, str | Sequence[Any]],
        *,
        key: str | Sequence[str] = NO_KEY,
        key_column: str | None = None,
        shared: Mapping[str, Any] | None = None,
    ) -> int:
        """Publish many messages that this one record causes, and return their number.

        A handler that reads its data piece by piece can call this method once for each piece. The
        messages of several calls are joined into packs, also if different records cause them. On a
        queue with `stream = true`, feedbus sends messages before the handler returns, so the
        handler needs little memory.

        Args:
            exchange: the name of the exchange in topology.toml.
            columns: maps the name of a message's field to a list with one value per message, or to
                the name of a field of the record. In the second case, all messages get the value
                of this field. At least one column is a list.
            key: the routing key of all messages, or a list with one for each. An exchange with
                shards needs a key.
            key_column: the name of a field in `columns` whose values are the routing keys. The
                caller gives at most one of key and key_column.
            shared: the fields that are the same in all messages.

        Raises:
            TypeError: an argument has a wrong type.
            KeyError: `columns` names a field that a record of the batch does not have.
            UsageError: this object has several records or none, there is no list, lists differ in
                length, a key is missing, or these Records have no bus.

        """
        check_fields(columns, shared, needs_columns=True)
        cause, lists, same = self._only("publish_columns"), {}, dict(shared or {})
        for field, source in columns.items():
            if isinstance(source, str):
                same[field] = self._batch.column(source)[cause]
            else:
                if not is_list(source):
                    refuse(f"columns[{field!r}]", COLUMN, source)
                lists[field] = source
        if not lists:
            msg = "publish_columns: columns: expected at least one list of values, got none"
            raise UsageError(msg)
        causes = [cause] * len(next(iter(lists.values())))
        part = Part(exchange, key, key_column, lists, same, causes).check()
        if causes:
            part.copy_lists()
            self._collect(part)
        return len(causes)

    def publish_many(self, exchange: str, pairs: Iterable[tuple[Payload, str]]) -> int:
        """Publish (payload, routing key) pairs that this one record causes; return their number.

        Args:
            exchange: the name of the exchange in topology.toml.
            pairs: any iterable of (payload, routing key) pairs.

        Raises:
            TypeError: a payload or a key has a wrong type.
            UsageError: this object has several records or none, or these Records have no bus.

        """
        check_many(exchange, pairs)
        causes, count = [self._only("publish_many")], 0
        for pair in pairs:
            fields, key = copied_pair(pair, count)
            self._collect(Part(exchange, key, None, {}, fields, causes).check())
            count += 1
        return count

    def _only(self, method: str) -> int:
        """Return the index of the only record; raise UsageError if there are several, or none."""
        if len(self._indexes) != 1:
            msg = (
                f"{method}: expected Records with exactly one record, the cause of the messages,"
                f" got {counted(len(self._indexes), 'record')}; call it on each of"
                " records.singles()"
            )
            raise UsageError(msg)
        return self._indexes[0]

    def _collect(self, part: Part) -> None:
        if self._batch.publisher is None:
            msg = (
                "these Records have no bus to publish with: in a test, write Records.of(…, bus=bus)"
            )
            raise UsageError(msg)
        self._batch.publisher.publish_part(part)
