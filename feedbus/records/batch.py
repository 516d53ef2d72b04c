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

SMALL_CHUNK = 8  # with fewer records per chunk on average, access by record is faster
LARGE_BATCH = 100  # a chunk with at least this many records is published separately


@dataclass(frozen=True, slots=True)
class Chunk:
    """The records of one message; equal fields are stored once, other fields as columns.

    Attributes:
        ids: the message id of each record.
        shared: maps each field to the value that all records have.
        columns: maps each field to a list with one value per record.
        rows: a list with one item for each record: its index in the message that contained it.
        make: creates a record from its fields; None if a record is the dict of its fields.
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
        """Return the value of a field for each record; raise KeyError if it is missing."""
        if name in self.columns:
            return self.columns[name]
        return repeat(self.shared[name], len(self))

    def row(self, index: int) -> Any:
        """Return one record: a new dict, or an instance of the message type."""
        if self.instances is not None:
            return self.instances[index]
        row = dict(self.shared)
        for name, values in self.columns.items():
            row[name] = values[index]
        return row if self.make is None else self.make(row)

    def select(self, indexes: Sequence[int]) -> Chunk:
        """Return a chunk of the records at these indexes, in this order."""
        if len(indexes) == len(self):
            return self
        ids, rows = self.ids.select(indexes), pick(self.rows, indexes)
        if self.instances is not None:
            instances = pick(self.instances, indexes)
            columns: Mapping[str, Sequence[Any]] = Attributes(instances, [*self.columns])
            return Chunk(ids, self.shared, columns, rows, instances=instances)
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        return Chunk(ids, self.shared, columns, rows, self.make)


class Origin(Protocol):
    """The delivery that contained the records of a chunk."""

    def message(self, row: int) -> Message:
        """Return the message of the record at an index of the delivery."""


@dataclass(slots=True)
class Batch:
    """All records of one call of a handler; Records objects are views of it.

    Attributes:
        chunks: the records, grouped by the message that contained them.
        verdicts: maps the index of a record to its verdict.
        publisher: receives the messages that are published; None if nothing can be published.
        origins: maps the number of a chunk to its delivery; empty without deliveries.
        starts: the index of each chunk's first record; the last item is the number of records.

    """

    chunks: Sequence[Chunk]
    publisher: PartPublisher | None = None
    origins: Sequence[Origin] = ()
    verdicts: dict[int, Drop | Reject | Retry] = field(default_factory=dict)
    starts: Sequence[int] = ()
    _columns: dict[str, Sequence[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Count the records."""
        self.starts = list(accumulate(map(len, self.chunks), initial=0))

    def __len__(self) -> int:
        """Count the records."""
        return self.starts[-1]

    def find(self, index: int) -> tuple[int, int]:
        """Return the number of the chunk that has a record, and the index of the record in it."""
        number = bisect_right(self.starts, index) - 1
        return number, index - self.starts[number]

    def message(self, index: int) -> Message:
        """Return the message of the record at an index."""
        number, row = self.find(index)
        chunk = self.chunks[number]
        if self.origins:
            return self.origins[number].message(chunk.rows[row])
        return Message(message_id=chunk.ids[row])

    def row(self, index: int) -> Any:
        """Return the record at an index."""
        number, row = self.find(index)
        return self.chunks[number].row(row)

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a field, one per record; the caller must not change the list.

        Raises:
            KeyError: a record has no such field; the error lists the existing fields.

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
        """Raise KeyError if a record lacks one of the named fields; the error lists its fields."""
        for chunk in self.chunks:
            for name in names:
                if name not in chunk.columns and name not in chunk.shared:
                    fields = ", ".join([*chunk.shared, *chunk.columns]) or "none"
                    msg = f"records have no field {name!r}; their fields are: {fields}"
                    raise KeyError(msg)

    @property
    def has_small_chunks(self) -> bool:
        """Whether the chunks are so small that access by record is faster than by chunk."""
        return len(self.chunks) * SMALL_CHUNK > len(self)

    def values(self, name: str, indexes: Sequence[int]) -> Sequence[Any]:
        """Return the values of a field for the records at these ascending indexes; see column()."""
        if not indexes:
            return ()
        if isinstance(indexes, range):  # if all are in one chunk, only its column is needed
            number, start = self.find(indexes.start)
            chunk = self.chunks[number]
            if start + len(indexes) <= len(chunk) and name in chunk.columns:
                return pick(chunk.columns[name], range(start, start + len(indexes)))
        values = self.column(name)
        return values if len(indexes) == len(values) else pick(values, indexes)

    def extents(self) -> Iterator[tuple[Chunk, range]]:
        """Yield each chunk with the range of its records' indexes in the batch."""
        for chunk, start in zip(self.chunks, self.starts, strict=False):
            yield chunk, range(start, start + len(chunk))

    def segments(
        self, indexes: Sequence[int], names: Iterable[str]
    ) -> Iterator[tuple[Mapping[str, Any], Sequence[int]]]:
        """Split records, in order, into runs.

        The records of a large chunk are a run of their own if they share one of the given fields.

        Args:
            indexes: the indexes of the records, ascending.
            names: the names of fields.

        Yields:
            (shared fields of the chunk, indexes of the records) for a run of one chunk. For any
            other run, the mapping is empty.

        """
        done = 0
        for chunk, extent in self.extents():
            if len(chunk) < LARGE_BATCH or chunk.shared.keys().isdisjoint(names):
                continue
            first = bisect_left(indexes, extent.start, done)
            end = bisect_left(indexes, extent.stop, first)
            if end - first >= LARGE_BATCH:
                if done < first:
                    yield {}, indexes[done:first]
                yield chunk.shared, indexes[first:end]
                done = end
        if done < len(indexes):
            yield {}, indexes[done:]
