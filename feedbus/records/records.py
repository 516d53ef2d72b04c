"""The records that a handler gets, with access by row, by column and by group."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from itertools import chain
from operator import not_
from typing import TYPE_CHECKING, Any, Generic, overload

from feedbus.errors import Drop, Reject, Retry
from feedbus.records.attribute_columns import Attributes, attributes_of
from feedbus.records.batch import Batch, Chunk, ChunkDelivery
from feedbus.records.ids import Ids
from feedbus.records.message import Message
from feedbus.records.publish_arguments import is_list
from feedbus.records.published_parts import PartPublisher
from feedbus.records.publishing_records import PublishingRecords
from feedbus.records.selection import choose, group
from feedbus.wrong_argument import refuse

if TYPE_CHECKING:  # the package may be missing at run time
    from typing_extensions import TypeVar

    Row = TypeVar("Row", default=dict[str, Any])
else:
    from typing import TypeVar

    Row = TypeVar("Row")


class Records(PublishingRecords, Sequence[Row], Generic[Row]):
    """The records of a batch, validated and loaded, in the order of their deliveries.

    A handler with batch=True gets all records of the batch. where(), group_by(), remaining() and
    singles() return some of these records, also as Records. A method that publishes, or that sets a
    verdict, applies only to the records of the object on which it is called.

        @handler(batch=True)
        def ship(orders: Records[Order]) -> None:
            orders.where("country", BLOCKED).reject("we do not ship there")
            for customer, own in orders.remaining().group_by("customer").items():
                own.publish("parcels", key=customer, columns={"orderId": "id"})

    The rows of Records[Order] are instances of Order, and the columns are their attributes. Without
    a type, rows are dicts. If the decorator has a marshmallow schema, rows are dicts, too. The type
    in Records[Order] is then only for type checkers, for example a TypedDict.
    """

    __slots__ = ()

    def __init__(self, chunks: Sequence[Chunk], deliveries: Sequence[ChunkDelivery] = ()) -> None:
        """Create Records with all records of the chunks.

        Args:
            chunks: the chunks of loaded records.
            deliveries: the delivery of each chunk; empty for records without a broker.

        """
        self._batch = Batch(chunks, deliveries=deliveries)
        self._indexes = range(len(self._batch))

    @classmethod
    def of(
        cls,
        rows: Sequence[Any],
        ids: Sequence[str] | None = None,
        *,
        bus: PartPublisher | None = None,
    ) -> Records[Row]:
        """Create Records from loaded records, for tests and for callers without a broker.

        Args:
            rows: one dict or instance per record.
            ids: the message id of each record; by default "record-0", "record-1" and so on.
            bus: receives the published messages, such as a feedbus.testing.RecordingBus.

        """
        if not is_list(rows):
            refuse("rows", "a list with one dict or instance for each record", rows)
        message_ids = ids if ids is not None else [f"record-{row}" for row in range(len(rows))]
        pairs = zip(message_ids, rows, strict=True)
        records: Records[Row] = cls([_chunk(Ids(each, None), row) for each, row in pairs])
        if bus is not None:
            records.bind(bus)
        return records

    # reading

    def __len__(self) -> int:
        """Count the records."""
        return len(self._indexes)

    def __iter__(self) -> Iterator[Row]:
        """Yield the records."""
        rows: Any = map(self._batch.row, self._indexes)
        return iter(rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """Return the record at index, or the records of a slice."""
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        row: Any = self._batch.row(self._indexes[index])
        return row  # type: ignore[no-any-return]

    @property
    def first(self) -> Row:
        """The first record, a dict or an instance of the message type.

        IndexError is raised if there is no record.
        """
        return self[0]

    @property
    def ids(self) -> list[str]:
        """The message id of each record."""
        if self._is_whole():
            return list(chain.from_iterable(chunk.ids for chunk in self._batch.chunks))
        locations = map(self._batch.find, self._indexes)
        return [self._batch.chunks[number].ids[index] for number, index in locations]

    @property
    def messages(self) -> list[Message]:
        """The message of each record: its routing key, headers, attempt and more.

        This call creates the messages. If you need few of them, select the records first.
        """
        return [self._batch.message(index) for index in self._indexes]

    def column(self, name: str) -> list[Any]:
        """Return the value of a field for every record, in a list that the caller may change.

        Args:
            name: the name of the field.

        Raises:
            KeyError: a record of the batch has no such field.

        """
        return list(self._batch.values(name, self._indexes))

    # choosing

    def where(self, name: str, values: Container[Any]) -> Records[Row]:
        """Return the records in which a field has one of the given values.

        Args:
            name: the name of the field.
            values: a set, or a dict whose keys are the values. A list is possible, too, but slower.

        Raises:
            TypeError: values is a text; write where("channel", {"email"}).
            KeyError: a record of the batch has no such field.

        """
        if _is_empty(values):
            return self._view([])
        contains = values.__contains__
        return self._view(choose(self._batch, self._indexes, name, lambda v: map(contains, v)))

    def where_not(self, name: str, values: Container[Any]) -> Records[Row]:
        """Return the records in which a field has none of the given values.

        Args:
            name: the name of the field.
            values: a set, or a dict whose keys are the values. A list is possible, too, but slower.

        Raises:
            TypeError: values is a text; write where_not("channel", {"email"}).
            KeyError: a record of the batch has no such field.

        """
        if _is_empty(values):
            return self
        contains = values.__contains__
        indexes = choose(self._batch, self._indexes, name, lambda v: map(not_, map(contains, v)))
        return self._view(indexes)

    def where_contains(self, name: str, item: Any) -> Records[Row]:
        """Return the records in which a field contains an item; the field is a text or a list.

        Args:
            name: the name of the field.
            item: a part of the text, or an item of the list.

        Raises:
            KeyError: a record of the batch has no such field.

        """

        def flags(values: Sequence[Any]) -> list[bool]:
            return [value is not None and item in value for value in values]

        return self._view(choose(self._batch, self._indexes, name, flags))

    def remaining(self) -> Records[Row]:
        """Return the records that have no verdict yet."""
        verdicts = self._batch.verdicts
        if not verdicts:
            return self
        return self._view([index for index in self._indexes if index not in verdicts])

    def group_by(self, *names: str) -> dict[Any, Records[Row]]:
        """Group the records by the values of one or several fields, in order of occurrence.

        Args:
            names: the names of the fields. With one name, the keys of the result are the values of
                this field. With several names, the keys are tuples of values.

        Example: `for (product, size), some in orders.group_by("product", "size").items(): …`

        Raises:
            TypeError: no field is named.
            KeyError: a record of the batch has no such field.

        """
        if not names:
            msg = "group_by: expected the name of a field, got none"
            raise TypeError(msg)
        groups = group(self._batch, self._indexes, names)
        return {key: _view(self._batch, indexes) for key, indexes in groups.items()}

    def singles(self) -> Iterator[Records[Row]]:
        """Yield each record as Records of one record.

        Some methods, such as publish_many(), can only be called on Records of one record. A batch
        handler calls them on the results.
        """
        for index in self._indexes:
            yield _view(self._batch, [index])

    def _view(self, indexes: Sequence[int]) -> Records[Row]:
        return self if len(indexes) == len(self._indexes) else _view(self._batch, indexes)

    def _is_whole(self) -> bool:
        return len(self._indexes) == len(self._batch)

    # verdicts

    def reject(self, reason: str | Callable[[Row], str]) -> None:
        """Make these records dead letters when the handler returns.

        Args:
            reason: the reason for the log and the dead letter; or a function that returns the
                reason of a record.

        """
        self._set_verdicts(Reject, reason)

    def drop(self, reason: str | Callable[[Row], str]) -> None:
        """Acknowledge these records when the handler returns, because they are no longer needed.

        feedbus counts them as dropped.

        Args:
            reason: the reason for the log; or a function that returns the reason of a record.

        """
        self._set_verdicts(Drop, reason)

    def retry(self, reason: str = "", *, after_seconds: float | None = None) -> None:
        """Handle these records again after a delay, which begins when the handler returns.

        Args:
            reason: the reason for the log and for the headers of the message.
            after_seconds: the delay in seconds; by default the next delay of the queue's retry
                policy.

        """
        verdict = Retry(reason, after_seconds=after_seconds)
        self._batch.verdicts.update(dict.fromkeys(self._indexes, verdict))

    def _set_verdicts(self, kind: type[Drop | Reject], reason: str | Callable[[Row], str]) -> None:
        verdicts = self._batch.verdicts
        if isinstance(reason, str):
            verdicts.update(dict.fromkeys(self._indexes, kind(reason)))
            return
        if not callable(reason):
            refuse("reason", "str, or a function that returns the reason of a record", reason)
        for index, row in zip(self._indexes, self, strict=True):
            verdicts[index] = kind(reason(row))

    @property
    def verdicts(self) -> dict[int, Drop | Reject | Retry]:
        """The verdicts that the handler has set so far on records of the batch.

        The result maps the index of a record in the batch to its verdict. It also contains records
        of the batch that are not in this object.

        When the handler returns, records without a verdict are acknowledged.
        """
        return self._batch.verdicts

    # only for the framework

    @property
    def batch(self) -> Batch:
        """The batch that contains these records; only feedbus uses it."""
        return self._batch

    def bind(self, publisher: PartPublisher) -> None:
        """Set the bus on which these records publish; only feedbus uses it, before each call.

        Args:
            publisher: receives the messages.

        """
        self._batch.publisher = publisher

    def only(self, ids: Sequence[str]) -> Records[Row]:
        """Return a new batch of the records with the given ids, one record for each id.

        feedbus uses this method to leave out records that were handled before, on a queue with
        `once = true`.

        Args:
            ids: the message ids.

        """
        wanted_ids = set(ids)
        chunks: list[Chunk] = []
        deliveries: list[ChunkDelivery] = []
        for number, chunk in enumerate(self._batch.chunks):
            kept_indexes = []
            for index, message_id in enumerate(chunk.ids):
                if message_id in wanted_ids:
                    # The batch may contain a message twice. Then only its first record is kept.
                    wanted_ids.discard(message_id)
                    kept_indexes.append(index)
            if kept_indexes:
                chunks.append(chunk.select(kept_indexes))
                # A slice, because in a test the list of deliveries is empty.
                deliveries += self._batch.deliveries[number : number + 1]
        return Records(chunks, deliveries)

    def at(self, indexes: Sequence[int]) -> Records[Row]:
        """Return a new batch of the records at these ascending indexes of this batch.

        feedbus uses this method to call a handler again without some of the records.

        Args:
            indexes: indexes in this batch, ascending.

        """
        by_chunk: dict[int, list[int]] = {}
        for index in indexes:
            number, index_in_chunk = self._batch.find(index)
            by_chunk.setdefault(number, []).append(index_in_chunk)
        chunks = [self._batch.chunks[number].select(each) for number, each in by_chunk.items()]
        deliveries = [
            each for number in by_chunk for each in self._batch.deliveries[number : number + 1]
        ]
        return Records(chunks, deliveries)

    def batches_of_one(self) -> Iterator[Records[Row]]:
        """Yield each record as a batch of one record.

        feedbus uses this method to call a handler of one record. It also uses the method to call a
        batch handler for each record alone, after an exception.
        """
        for number, chunk in enumerate(self._batch.chunks):
            deliveries = self._batch.deliveries[number : number + 1]
            for index in range(len(chunk)):
                yield Records([chunk.select([index])], deliveries)


def _view(batch: Batch, indexes: Sequence[int]) -> Records[Any]:
    records: Records[Any] = Records.__new__(Records)
    records._batch, records._indexes = batch, indexes  # noqa: SLF001 -- a second constructor
    return records


def _chunk(ids: Ids, row: Any) -> Chunk:
    if isinstance(row, Mapping):
        return Chunk(ids, dict(row), {})
    return Chunk(ids, {}, Attributes([row], attributes_of(row)), instances=[row])


def _is_empty(values: Container[Any]) -> bool:
    if isinstance(values, str | bytes):
        msg = f"expected a set of values, got {values!r:.50}; write {{{values!r:.50}}}"
        raise TypeError(msg)
    if not isinstance(values, Container):
        refuse("values", "a set of values", values)
    return isinstance(values, Sized) and not len(values)
