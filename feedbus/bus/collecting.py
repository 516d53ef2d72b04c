"""The bus that a handler gets: it collects, and what it collected is sent after the commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any

from feedbus.bus.encoding import columnar, derive
from feedbus.bus.interface import Bus
from feedbus.records import Records
from feedbus.records.packs import Ordinal, Pack


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
        self._flat: list[Ordinal] | None = None
        # By exchange: for each record the children that it caused there beside the first.
        self._caused: defaultdict[str, dict[int, int]] = defaultdict(dict)

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        causes: Sequence[int] | None = None,
    ) -> int:
        """Collect (routing key, payload) pairs."""
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
        keys: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
        *,
        causes: Sequence[int] | None = None,
    ) -> int:
        """Collect records by column."""
        if not keys:
            return 0
        if causes is None:
            call = f"{exchange}/{self._calls}"
            self._calls += 1
            ids = chain.from_iterable(chunk.ids for chunk in self._records.chunks)
            origin = derive(call, *ids)
            self._collect(exchange, Pack(origin, range(len(keys)), keys, shared, columns))
            return len(keys)
        if len(causes) != len(keys):
            msg = f"expected a cause for each of {len(keys)} records, got {len(causes)}"
            raise ValueError(msg)
        ordinals = self._ordinals(exchange, causes)
        for origin, indexes in self._by_origin(causes):
            derived = derive(exchange, origin)
            pack = Pack(derived, ordinals, keys, shared, columns)
            self._collect(exchange, pack if indexes is None else pack.select(indexes))
        return len(keys)

    def _ordinals(self, exchange: str, causes: Sequence[int]) -> Sequence[Ordinal]:
        """End each child's id as its cause's ends; a cause's later children count on from it."""
        if self._flat is None:
            self._flat = [
                ordinal for chunk in self._records.chunks for ordinal in chunk.ordinals or (0,)
            ]
        flat, known = self._flat, self._caused[exchange]
        before, distinct = len(known), len(causes)
        known.update(dict.fromkeys((cause for cause in causes if cause not in known), 0))
        if len(known) == before + distinct:
            return [flat[cause] for cause in causes]  # the first child of each
        ordinals: list[Ordinal] = []
        fresh = set(islice(known, before, None))
        for cause in causes:
            if cause in fresh:
                fresh.remove(cause)
                ordinals.append(flat[cause])
            else:
                known[cause] += 1
                ordinals.append(f"{flat[cause]}.{known[cause]}")
        return ordinals

    def _by_origin(self, causes: Sequence[int]) -> Iterator[tuple[str, list[int] | None]]:
        """Go through runs of children whose causes' ids start alike; None is all of them."""
        origins = {chunk.origin for chunk in self._records.chunks}
        if len(origins) == 1:
            yield origins.pop(), None
            return
        owners = [chunk.origin for chunk in self._records.chunks for _ in range(len(chunk))]
        # Run by run, not origin by origin: each key's records stay in the order of publishing.
        for origin, run in groupby(range(len(causes)), lambda index: owners[causes[index]]):
            yield origin, list(run)
