"""A batch of records: its chunks, each from one message, and the verdicts on its records."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from typing import Any, Protocol

from feedbus.errors import Drop, Reject, Retry
from feedbus.records.attribute_columns import Attributes
from feedbus.records.ids import Ids, pick
from feedbus.records.message import Message
from feedbus.records.published_parts import PartPublisher

SMALL_CHUNK = 8  # with fewer records per chunk on average, access by record is faster than by chunk
# At least this many records of a chunk are published as a Part of their own: a group of messages in
# which the fields with equal values are stored once.
LARGE_BATCH = 100


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records of one message; values that all records share are stored once, others by column.

    The decoder creates the Chunk for a handler. A batch has one Chunk or more.

    Attributes:
        ids: the message id of each record.
        shared: the fields whose value is stored once: maps each field to the value of all records.
        columns: the other fields: maps each field to a list with one value per record.
        rows: a list with one item for each record: the index of the record in its message.
        make: creates a record from its fields; None if a record is the dict of its fields, or is in
            `instances`.
        instances: the records, if they were loaded one by one, otherwise None.

    """

    ids: Ids
    shared: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int] = (0,)
    make: Callable[[dict[str, Any]], Any] | None = None
    instances: Sequence[Any] | None = None

    def __len__(self) -> int:
        """Count the records."""
        return len(self.ids)

    def column(self, name: str) -> Iterable[Any]:
        """Return the values of a field, one for each record, in order.

        Args:
            name: the name of the field.

        Raises:
            KeyError: there is no such field.

        """
        if name in self.columns:
            return self.columns[name]
        return repeat(self.shared[name], len(self))

    def row(self, index: int) -> Any:
        """Return one record: a new dict, or an instance of the message type.

        Args:
            index: the index of the record in the chunk.

        """
        if self.instances is not None:
            return self.instances[index]
        row = dict(self.shared)
        for name, values in self.columns.items():
            row[name] = values[index]
        return row if self.make is None else self.make(row)

    def select(self, indexes: Sequence[int]) -> Chunk:
        """Return a chunk of the records at these indexes.

        Args:
            indexes: indexes in this chunk, ascending.

        """
        if len(indexes) == len(self):
            return self
        ids, rows = self.ids.select(indexes), pick(self.rows, indexes)
        if self.instances is not None:
            instances = pick(self.instances, indexes)
            columns: Mapping[str, Sequence[Any]] = Attributes(instances, [*self.columns])
            return Chunk(ids, self.shared, columns, rows, instances=instances)
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        return Chunk(ids, self.shared, columns, rows, self.make)


class ChunkDelivery(Protocol):
    """The delivery that contained the records of a chunk.

    In a consumer, it is the decoded delivery. For a dead handler, it is an object for the failed
    record. A test that creates Records has none.
    """

    @property
    def run(self) -> int:
        """The number of failures of a record after which the messages of its handler were sent.

        Usually the number is 0, because the messages of a failed call are discarded. Delivery.run
        describes the exceptions. The ids of the messages that a handler publishes for the record
        depend on the number. Otherwise these messages would have the ids of the earlier messages.
        """

    def message(self, row: int) -> Message:
        """Return the properties of one record's message, as a handler gets them.

        Args:
            row: the index of the record in the delivery.

        """


@dataclass(slots=True)
class Batch:
    """All records of one call of a handler; Records objects are views of it.

    A Batch exists as long as the call, and is not public: a handler gets Records.

    Attributes:
        chunks: the records, grouped by the message that contained them.
        verdicts: maps the index of a record to its verdict.
        publisher: receives the messages that are published; None if nothing can be published.
        published: the indexes of the records that have a verdict, and for which the handler has
            published messages; set after the call.
        deliveries: the delivery of each chunk, in the order of the chunks; empty in a test.
        starts: the index of each chunk's first record; the last item is the number of records.

    """

    chunks: Sequence[Chunk]
    publisher: PartPublisher | None = None
    deliveries: Sequence[ChunkDelivery] = ()
    verdicts: dict[int, Drop | Reject | Retry] = field(default_factory=dict)
    published: set[int] = field(default_factory=set)
    starts: Sequence[int] = ()
    _columns: dict[str, Sequence[Any]] = field(default_factory=dict)  # the results of column()

    def __post_init__(self) -> None:
        """Compute `starts`."""
        self.starts = list(accumulate(map(len, self.chunks), initial=0))

    def __len__(self) -> int:
        """Count the records."""
        return self.starts[-1]

    def find(self, index: int) -> tuple[int, int]:
        """Return the number of a record's chunk, and the index of the record in the chunk.

        Both numbers begin at 0. The other methods use this method.

        Args:
            index: the index of the record in the batch.

        """
        number = bisect_right(self.starts, index) - 1
        return number, index - self.starts[number]

    def message(self, index: int) -> Message:
        """Return the properties of a record's message, such as its routing key and headers.

        Args:
            index: the index of the record in the batch.

        """
        number, index_in_chunk = self.find(index)
        chunk = self.chunks[number]
        if self.deliveries:
            return self.deliveries[number].message(chunk.rows[index_in_chunk])
        return Message(message_id=chunk.ids[index_in_chunk])

    def row(self, index: int) -> Any:
        """Return one record: a dict, or an instance of the message type.

        Args:
            index: the index of the record in the batch.

        """
        number, index_in_chunk = self.find(index)
        return self.chunks[number].row(index_in_chunk)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a field, one per record; the caller must not change the list.

        Args:
            name: the name of the field.

        Raises:
            KeyError: a record has no such field; the error lists the fields of the record.

        """
        cached = self._columns.get(name)
        if cached is None:
            self.check(name)
            if len(self.chunks) == 1 and name in self.chunks[0].columns:
                cached = self.chunks[0].columns[name]
            else:
                cached = list(chain.from_iterable(chunk.column(name) for chunk in self.chunks))
            self._columns[name] = cached
        return cached

    def check(self, *names: str) -> None:
        """Check that all records have the named fields.

        Args:
            names: the names of the fields.

        Raises:
            KeyError: a record lacks one of the fields; the error lists all fields of the record.

        """
        for chunk in self.chunks:
            for name in names:
                if name not in chunk.columns and name not in chunk.shared:
                    fields = ", ".join([*chunk.shared, *chunk.columns]) or "none"
                    msg = f"records have no field {name!r}; their fields are: {fields}"
                    raise KeyError(msg)

    @property
    def has_small_chunks(self) -> bool:
        """Whether the chunks are so small that access by record is faster than by chunk.

        Records.where() and Records.group_by() then read the column record by record.
        """
        return len(self.chunks) * SMALL_CHUNK > len(self)

    def values(self, name: str, indexes: Sequence[int]) -> Sequence[Any]:
        """Return the values of a field for the records at these ascending indexes.

        Args:
            name: the name of the field.
            indexes: indexes in the batch, ascending.

        Raises:
            KeyError: a record of the batch has no such field; the error lists the fields of the
                record.

        """
        if not indexes:
            return ()
        if isinstance(indexes, range):  # if one chunk has all the records, its column is enough
            number, start = self.find(indexes.start)
            chunk = self.chunks[number]
            if start + len(indexes) <= len(chunk) and name in chunk.columns:
                return pick(chunk.columns[name], range(start, start + len(indexes)))
        values = self.column(name)
        return values if len(indexes) == len(values) else pick(values, indexes)

    def extents(self) -> Iterator[tuple[Chunk, range]]:
        """Yield each chunk with the range of its records' indexes in the batch.

        The ranges of successive chunks follow one another, from 0 on.
        """
        for chunk, start in zip(self.chunks, self.starts, strict=False):
            yield chunk, range(start, start + len(chunk))

    def segments(
        self, indexes: Sequence[int], names: Iterable[str]
    ) -> Iterator[tuple[Mapping[str, Any], Sequence[int]]]:
        """Split records, in order, into runs; the caller publishes each run as one part.

        If at least LARGE_BATCH of the records are in one chunk, and one of the given fields is in
        `shared` of the chunk, these records are a run of their own. Then the part contains the
        value of this field only once.

        Records.publish() calls the method.

        Args:
            indexes: the indexes of the records, ascending.
            names: the fields of the records whose values are published.

        Yields:
            A mapping and the indexes of the records of a run. For a run of one large chunk, the
            mapping has the shared fields of the chunk. For any other run, the mapping is empty.

        """
        yielded = 0
        for chunk, extent in self.extents():
            if len(chunk) < LARGE_BATCH or chunk.shared.keys().isdisjoint(names):
                continue
            first = bisect_left(indexes, extent.start, yielded)
            end = bisect_left(indexes, extent.stop, first)
            if end - first >= LARGE_BATCH:
                if yielded < first:
                    yield {}, indexes[yielded:first]
                yield chunk.shared, indexes[first:end]
                yielded = end
        if yielded < len(indexes):
            yield {}, indexes[yielded:]
