"""The bus that a handler gets: it collects, and what it collected is sent after the commit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

from feedbus.bus.arguments import check_columns, check_many
from feedbus.bus.encoding import columnar, derive
from feedbus.bus.interface import Bus
from feedbus.records import Records
from feedbus.records.ids import LARGEST_ORDINAL, Ids, children, pick
from feedbus.records.packs import Pack


class CollectingBus(Bus):
    """Collects what one call of a handler publishes, with ids derived from what it was given."""

    def __init__(self, records: Records, collect: Callable[[str, Pack], None]) -> None:
        """Collect for a handler that was given these records.

        Args:
            records: what causes all that is published.
            collect: takes each exchange's name and the records for it.

        """
        self._records = records
        self._collect = collect
        self._calls = 0
        self._parents: Ids | None = None
        # By exchange: how many children each record has caused there.
        self._caused: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Mapping[str, Any], str]],
        *,
        causes: Sequence[int] | None = None,
    ) -> int:
        """Collect (payload, routing key) pairs."""
        check_many(exchange, pairs)
        collected = list(pairs)
        first = 0
        for pack in columnar(collected, ""):
            part = None if causes is None else causes[first : first + len(pack)]
            first += len(pack)
            self.publish_columns(exchange, pack.keys, pack.columns, pack.shared, causes=part)
        return len(collected)

    def publish_columns(
        self,
        exchange: str,
        keys: Sequence[str] | str,
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
        *,
        causes: Sequence[int] | None = None,
    ) -> int:
        """Collect records by column."""
        check_columns(exchange, keys, columns, shared)
        if causes is None:
            call = f"{exchange}/{self._calls}"
            self._calls += 1
            pack = Pack.numbered(derive(call, *self._records.ids), keys, shared, columns)
        else:
            pack = Pack(self._children(exchange, causes), keys, shared, columns)
            if len(causes) != len(pack):
                msg = f"expected a cause for each of {len(pack)} records, got {len(causes)}"
                raise ValueError(msg)
        if len(pack):
            self._collect(exchange, pack)
        return len(pack)

    def _children(self, exchange: str, causes: Sequence[int]) -> Ids:
        """Derive each child's id from its cause's; a cause's later children count on."""
        if self._parents is None:
            self._parents = _joined([chunk.ids for chunk in self._records.chunks])
        origins, ordinals = self._parents.origins, self._parents.ordinals or ()
        found: Sequence[int]
        caused = self._caused[exchange]
        if caused.keys().isdisjoint(causes) and len(set(causes)) == len(causes):
            caused.update(causes)
            found = pick(ordinals, causes)  # the first child of each
        else:
            found = []
            for cause, run in groupby(causes):
                count = len(list(run))
                found += children(ordinals[cause], caused[cause], count)
                caused[cause] += count
            if max(found, default=0) > LARGEST_ORDINAL:
                return self._begun_anew(exchange, causes, found)
        if isinstance(origins, str):
            return Ids(derive(exchange, origins), found)
        owners = pick(origins, causes)
        derived = {origin: derive(exchange, origin) for origin in set(owners)}
        return Ids([derived[origin] for origin in owners], found)

    def _begun_anew(self, exchange: str, causes: Sequence[int], found: Sequence[int]) -> Ids:
        """Derive ids of their own for children of children of children: no id grows for ever."""
        parents = self._records.ids
        origins = [
            derive(exchange, parents[cause], str(ordinal))
            for cause, ordinal in zip(causes, found, strict=True)
        ]
        return Ids(origins, [0] * len(origins))


def _joined(ids: Sequence[Ids]) -> Ids:
    """Return the ids of many chunks' records as one."""
    ordinals = list(chain.from_iterable(each.ordinals or (0,) for each in ids))
    first = ids[0].origins if ids else ""
    if isinstance(first, str) and all(each.origins == first for each in ids):
        return Ids(first, ordinals)
    parts = (
        [each.origins] * len(each) if isinstance(each.origins, str) else each.origins
        for each in ids
    )
    return Ids(list(chain.from_iterable(parts)), ordinals)
