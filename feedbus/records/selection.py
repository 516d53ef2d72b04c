"""Select and group the records of a batch by their fields.

A value that all records of a chunk share is checked once for the chunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from feedbus.records.batch import Batch

Condition = Callable[[Sequence[Any]], Iterable[object]]


def choose(batch: Batch, indexes: Sequence[int], name: str, condition: Condition) -> Sequence[int]:
    """Return the indexes of the records in which the value of a field meets a condition.

    Records.where() and similar methods call this.

    Args:
        batch: the batch of the records.
        indexes: the indexes of the records to choose from, ascending.
        name: the name of the field.
        condition: a function that gets values. It returns for each value whether the condition is
            true.

    Raises:
        KeyError: a record of the batch has no such field.

    """
    if len(indexes) < len(batch) or batch.has_small_chunks:
        return list(compress(indexes, condition(batch.values(name, indexes))))
    batch.check(name)
    chosen: list[int] = []
    for chunk, extent in batch.extents():
        if name in chunk.columns:
            chosen += compress(extent, condition(chunk.columns[name]))
        elif any(condition([chunk.shared[name]])):
            chosen += extent
    return chosen


def group(
    batch: Batch, indexes: Sequence[int], names: Sequence[str]
) -> Mapping[Any, Sequence[int]]:
    """Group records by the values of one or several fields.

    Records.group_by() calls this.

    Args:
        batch: the batch of the records.
        indexes: the indexes of the records to group, ascending.
        names: the names of the fields.

    Returns:
        Maps each value to the indexes of its records, in order. With several fields, the keys are
        tuples of values.

    Raises:
        KeyError: a record of the batch has no such field.

    """
    groups: defaultdict[Any, list[int]] = defaultdict(list)
    by_chunk = False  # whether a chunk was added to a group as a whole
    if len(indexes) < len(batch) or batch.has_small_chunks:
        columns = [batch.values(name, indexes) for name in names]
        for key, index in zip(_keys(columns), indexes, strict=True):
            groups[key].append(index)
        return groups
    batch.check(*names)
    for chunk, extent in batch.extents():
        if chunk.columns.keys().isdisjoint(names):
            (key,) = _keys([[chunk.shared[name]] for name in names])
            groups[key] += extent
            by_chunk = True
            continue
        for key, index in zip(_keys([chunk.column(name) for name in names]), extent, strict=True):
            groups[key].append(index)
    return (
        {key: _compact(chunk_indexes) for key, chunk_indexes in groups.items()}
        if by_chunk
        else groups
    )


def _compact(indexes: list[int]) -> Sequence[int]:
    """Return the indexes, as a range if they are consecutive.

    The values at the indexes of a range are a slice of a column.
    """
    first, end = indexes[0], indexes[-1] + 1
    return range(first, end) if end - first == len(indexes) else indexes


def _keys(columns: Sequence[Iterable[Any]]) -> Iterable[Any]:
    return columns[0] if len(columns) == 1 else zip(*columns, strict=True)
