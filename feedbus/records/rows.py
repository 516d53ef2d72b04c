"""Records as handlers take them: many messages at once, by row or by column."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, overload

from feedbus.errors import Drop, Reject, Retry
from feedbus.records.ids import Ids, pick


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one message: what they share is stored once, what differs by column.

    Attributes:
        ids: the message id of each record.
        shared: field to the value that all records have.
        columns: field to one value a record.
        rows: for each record its place in the message that brought it.

    """

    ids: Ids
    shared: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    rows: Sequence[int] = (0,)

    def __len__(self) -> int:
        """Count the records."""
        return len(self.ids)

    def column(self, name: str) -> Sequence[Any]:
        """Return one value a record; KeyError when the records have no such field."""
        if name in self.columns:
            return self.columns[name]
        return list(repeat(self.shared[name], len(self)))

    def row(self, index: int) -> dict[str, Any]:
        """Return one record as a dict of its own."""
        varying = {name: values[index] for name, values in self.columns.items()}
        return {**self.shared, **varying}

    def select(self, indexes: Sequence[int]) -> Chunk:
        """Return a chunk of these records alone, in this order."""
        if len(indexes) == len(self):
            return self
        columns = {name: pick(values, indexes) for name, values in self.columns.items()}
        return Chunk(self.ids.select(indexes), self.shared, columns, pick(self.rows, indexes))


@dataclass(slots=True)
class Records(Sequence[dict[str, Any]]):
    """Many records, validated and loaded, in the order of their deliveries.

    Iterate them as dicts, take a field of all by column(), or go chunk by chunk where what a
    chunk's records share is worth using once.
    """

    chunks: Sequence[Chunk]
    verdicts: dict[int, Drop | Reject | Retry] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], ids: Sequence[str] | None = None) -> Records:
        """Make records of loaded dicts, for tests and for callers without a broker."""
        names = ids if ids is not None else [f"record-{index}" for index in range(len(rows))]
        pairs = zip(names, rows, strict=True)
        return cls([Chunk(Ids(name, None), dict(row), {}) for name, row in pairs])

    def __len__(self) -> int:
        """Count the records."""
        return sum(len(chunk) for chunk in self.chunks)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through the records as dicts."""
        return chain.from_iterable(
            (chunk.row(index) for index in range(len(chunk))) for chunk in self.chunks
        )

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the record at index, or those of a slice."""
        if isinstance(index, slice):
            return list(self)[index]
        chunk, place = self.place(index)
        return self.chunks[chunk].row(place)

    def place(self, index: int) -> tuple[int, int]:
        """Return which chunk holds a record, and the record's place in it."""
        rest = index + len(self) if index < 0 else index
        for number, chunk in enumerate(self.chunks):
            if 0 <= rest < len(chunk):
                return number, rest
            rest -= len(chunk)
        raise IndexError(index)

    @property
    def ids(self) -> list[str]:
        """The message id of each record."""
        return list(chain.from_iterable(chunk.ids for chunk in self.chunks))

    def column(self, name: str) -> list[Any]:
        """Return one field of every record; KeyError when a record has no such field."""
        return list(chain.from_iterable(chunk.column(name) for chunk in self.chunks))

    def reject(self, index: int, reason: str) -> None:
        """Dead-letter this record alone when the handler returns; the others are acknowledged."""
        self.verdicts[self._checked(index)] = Reject(reason)

    def drop(self, index: int, reason: str) -> None:
        """Acknowledge and count this record: what it is about is gone, so nothing is to be done."""
        self.verdicts[self._checked(index)] = Drop(reason)

    def retry(self, index: int, reason: str = "", *, after_seconds: float | None = None) -> None:
        """See this record again later; the others are acknowledged."""
        self.verdicts[self._checked(index)] = Retry(reason, after_seconds=after_seconds)

    def _checked(self, index: int) -> int:
        count = len(self)
        if not -count <= index < count:
            msg = f"expected the index of one of {count} records, got {index}"
            raise IndexError(msg)
        return index % count

    def only(self, ids: Sequence[str]) -> Records:
        """Return the records that have these ids."""
        wanted = set(ids)
        chunks = [
            chunk.select([index for index, name in enumerate(chunk.ids) if name in wanted])
            for chunk in self.chunks
        ]
        return Records([chunk for chunk in chunks if len(chunk)])

    def singles(self) -> Iterator[Records]:
        """Go through the records one at a time, each as Records of its own."""
        for chunk in self.chunks:
            for index in range(len(chunk)):
                yield Records([chunk.select([index])])
