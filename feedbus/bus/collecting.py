"""The bus that a handler gets: it collects, and what it collected is sent after the commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from feedbus.bus.encoding import columnar, derive
from feedbus.bus.interface import Bus
from feedbus.records import Records
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
        call = f"{exchange}/{self._calls}"
        self._calls += 1
        if causes is None:
            ids = chain.from_iterable(chunk.ids for chunk in self._records.chunks)
            origin = derive(call, *ids)
            self._collect(exchange, Pack(origin, range(len(keys)), keys, shared, columns))
            return len(keys)
        if len(causes) != len(keys):
            msg = f"expected a cause for each of {len(keys)} records, got {len(causes)}"
            raise ValueError(msg)
        for origin, ordinals, indexes in self._by_origin(causes):
            part = {name: [values[i] for i in indexes] for name, values in columns.items()}
            part_keys = [keys[i] for i in indexes]
            derived = derive(call, origin)
            self._collect(exchange, Pack(derived, ordinals, part_keys, shared, part))
        return len(keys)

    def _by_origin(self, causes: Sequence[int]) -> Iterator[tuple[str, list[int], list[int]]]:
        """Group by the causing message; a second child of a record has an origin of its own."""
        owners = [
            (chunk.origin, 0 if chunk.ordinals is None else chunk.ordinals[place])
            for chunk in self._records.chunks
            for place in range(len(chunk))
        ]
        groups: dict[str, tuple[list[int], list[int]]] = {}
        times: defaultdict[int, int] = defaultdict(int)
        for index, cause in enumerate(causes):
            origin, ordinal = owners[cause]
            if times[cause]:
                origin = f"{origin}/{times[cause]}"
            times[cause] += 1
            ordinals, indexes = groups.setdefault(origin, ([], []))
            ordinals.append(ordinal)
            indexes.append(index)
        for origin, (ordinals, indexes) in groups.items():
            yield origin, ordinals, indexes
