"""The message ids of many records in a compact form: a common beginning, and a number for each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Self, TypeVar, overload

ORDINAL = re.compile(r"0|[1-9][0-9]{0,99}", re.ASCII)
MAX_ORDINAL = 10**100 - 1
# The longest origin in a pack. With an ordinal, it is a message id, which AMQP limits to 255 bytes.
ORIGIN_BYTES = 150
DIGIT_BITS = 32  # see child_ordinals()

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Ids(Sequence[str]):
    """The message ids of records, in order.

    An id is `origin-ordinal`. Ids with the same origin need little memory: the origin is stored
    once.

    Attributes:
        origins: the beginning of the ids: one for all records, or one per record.
        ordinals: the number at the end of each id; None if there is one record, whose id is the
            origin itself.

    """

    origins: str | Sequence[str]
    ordinals: Sequence[int] | None

    @classmethod
    def of(cls, message_id: str) -> Self:
        """Return the ids of the single record of a plain message.

        The id can have an origin and an ordinal, because the record may have been in a pack before.

        Args:
            message_id: the id of the record.

        """
        origin, dash, ordinal = message_id.rpartition("-")
        # An id with a longer origin does not fit into a pack. It counts as an id without ordinal.
        if dash and ORDINAL.fullmatch(ordinal) and len(origin.encode()) <= ORIGIN_BYTES:
            return cls(origin, [int(ordinal)])
        return cls(message_id, None)

    def __len__(self) -> int:
        """Count the records."""
        return 1 if self.ordinals is None else len(self.ordinals)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return the id of one record, or the ids of a slice."""
        if isinstance(index, slice):
            return list(self)[index]
        origin = self.origins if isinstance(self.origins, str) else self.origins[index]
        return origin if self.ordinals is None else f"{origin}-{self.ordinals[index]}"

    def __iter__(self) -> Iterator[str]:
        """Yield the ids."""
        if self.ordinals is None:
            return iter([self[0]])
        if isinstance(self.origins, str):
            return iter([f"{self.origins}-{ordinal}" for ordinal in self.ordinals])
        pairs = zip(self.origins, self.ordinals, strict=True)
        return iter([f"{origin}-{ordinal}" for origin, ordinal in pairs])

    def select(self, indexes: Sequence[int]) -> Ids:
        """Return the ids of the records at these indexes, in this order.

        Args:
            indexes: the indexes of the records, from 0.

        """
        if self.ordinals is None:
            return self if indexes else Ids(self.origins, [])
        origins = self.origins if isinstance(self.origins, str) else pick(self.origins, indexes)
        return Ids(origins, pick(self.ordinals, indexes))


def child_ordinals(ordinal: int, first: int, count: int) -> Sequence[int]:
    """Return the ordinals of some children of a record: of messages that the record causes.

    The children of a record are numbered from 0. Child 0 has the ordinal `2 * ordinal`. Child n has
    the ordinal `2 * (ordinal + n * step) + 1`. The step is 2**32 for an ordinal below 2**32. For a
    larger ordinal, it is the lowest power of 2**32 above the ordinal.

    Example: the children of record 5 have the ordinals 10, 11 + 2**33, 11 + 2 * 2**33, and so on.

    Two children never have the same ordinal, even if they have different parents. The reason: the
    ordinal of a child determines n and the ordinal of the parent. If the child's ordinal is even, n
    is 0, and the parent's ordinal is half of it. If the child's ordinal is odd, halve it, round
    down, and write the result in digits of 32 bits. Then the highest digit is n, and the other
    digits are the ordinal of the parent.

    The messages that a batch handler publishes for a record get their ids in this way.

    Args:
        ordinal: the ordinal of the record.
        first: the number of the first of these children, below 2**32.
        count: the number of these children.

    """
    if not first and count:
        return [2 * ordinal, *child_ordinals(ordinal, 1, count - 1)]
    digits = max(1, -(-ordinal.bit_length() // DIGIT_BITS))
    step = 1 << DIGIT_BITS * digits
    begin, end = ordinal + first * step, ordinal + (first + count) * step
    return range(2 * begin + 1, 2 * end + 1, 2 * step)


def pick(values: Sequence[Value], indexes: Sequence[int]) -> Sequence[Value]:
    """Return the values at these indexes, in this order.

    If the indexes select all values, the sequence itself can be returned.

    Args:
        values: the values.
        indexes: indexes of values, from 0.

    """
    if isinstance(indexes, range) and indexes.step == 1:
        return values[indexes.start : indexes.stop]
    if len(indexes) < 2:  # noqa: PLR2004 -- for one index, itemgetter returns no tuple
        return [values[index] for index in indexes]
    picked: Any = itemgetter(*indexes)(values)
    return picked  # type: ignore[no-any-return]
