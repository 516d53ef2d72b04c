"""For users' own tests: a bus that records, and Records made of dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from feedbus.bus import Bus
from feedbus.records import Records
from feedbus.records.packs import Pack

__all__ = ["Published", "RecordingBus", "Records"]


@dataclass(frozen=True, slots=True)
class Published:
    """One record that a handler published."""

    exchange: str
    key: str
    payload: Mapping[str, Any]


@dataclass(slots=True)
class RecordingBus(Bus):
    """Keeps what is published in a list, in order."""

    published: list[Published] = field(default_factory=list)

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        causes: Sequence[int] | None = None,  # noqa: ARG002 -- ids are not recorded
    ) -> int:
        """Record pairs."""
        found = [Published(exchange, key, dict(payload)) for key, payload in pairs]
        self.published.extend(found)
        return len(found)

    def publish_columns(
        self,
        exchange: str,
        keys: Sequence[str] | str,
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
        *,
        causes: Sequence[int] | None = None,
    ) -> int:
        """Record one payload a record."""
        pack = Pack.numbered("", keys, shared, columns)
        rows = map(pack.payload, range(len(pack)))
        return self.publish_many(exchange, zip(pack.keys, rows, strict=True), causes=causes)
