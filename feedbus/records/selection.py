"""Select and group the records of a batch by their fields; shared values are checked once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from feedbus.records.batch import Batch

Flags = Callable[[Sequence[Any]], Iterable[object]]


def choose(batch: Batch, places: Sequence[int], name: str, flags: Flags) -> Sequence[int]:
    """Return the indexes of the records whose value in a field is wanted.

    Args:
        batch: the records.
        places: the indexes of the records to choose from.
        name: the name of the field.
        flags: a function that gets values, and returns for each value whether it is wanted.

    """
    if len(places) < len(batch) or batch.scattered:
        return list(compress(places, flags(batch.values(name, places))))
    batch.check(name)
    found: list[int] = []
    for chunk, extent in batch.extents():
        if name in chunk.columns:
            found += compress(extent, flags(chunk.columns[name]))
        elif any(flags([chunk.shared[name]])):
            found += extent
    return found


def group(batch: Batch, places: Sequence[int], names: Sequence[str]) -> Mapping[Any, Sequence[int]]:
    """Return the indexes of the records by the value of a field, or of several fields."""
    found: defaultdict[Any, list[int]] = defaultdict(list)
    by_chunk = False
    if len(places) < len(batch) or batch.scattered:
        columns = [batch.values(name, places) for name in names]
        for key, place in zip(_keys(columns), places, strict=True):
            found[key].append(place)
        return found
    batch.check(*names)
    for chunk, extent in batch.extents():
        if chunk.columns.keys().isdisjoint(names):
            (key,) = _keys([[chunk.shared[name]] for name in names])
            found[key] += extent
            by_chunk = True
            continue
        for key, place in zip(_keys([chunk.column(name) for name in names]), extent, strict=True):
            found[key].append(place)
    return {key: _compact(own) for key, own in found.items()} if by_chunk else found


def _compact(places: list[int]) -> Sequence[int]:
    """Return consecutive indexes as a range, so that their values are a slice of a column."""
    first, end = places[0], places[-1] + 1
    return range(first, end) if end - first == len(places) else places


def _keys(columns: Sequence[Iterable[Any]]) -> Iterable[Any]:
    return columns[0] if len(columns) == 1 else zip(*columns, strict=True)
