"""Merge small parts, so that their messages are sent in a few packs.

A part is the messages that a batch handler publishes by one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from feedbus.records.batch import LARGE_BATCH
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack
from feedbus.records.published_parts import Part


@dataclass(slots=True)
class PartGroup:
    """Parts that are merged into one pack.

    merge() creates it. A part is the messages that a batch handler publishes by one call.

    Attributes:
        field_names: the names of the shared fields and of the columns of each part, and the name of
            the column with the keys.
        is_open: whether more parts may be added.
        parts: the parts, in the order of publishing.
        starts: for each part, the index of the part's first message. The index counts all messages
            that were given to merge().

    """

    field_names: tuple[object, ...]
    is_open: bool
    parts: list[Part] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def indexes(self) -> Sequence[int]:
        """Return the index of each message of this group, among all messages given to merge().

        merge() selects the ids of the group with these indexes.
        """
        pairs = zip(self.starts, self.parts, strict=True)
        return list(chain.from_iterable(range(start, start + len(part)) for start, part in pairs))

    def pack(self, ids: Ids) -> Pack:
        """Return a pack of the messages, with these ids.

        A shared field is stored once if its value is the same in all parts.

        Args:
            ids: the ids of the messages of this group, in the order of its parts.

        """
        parts, first = self.parts, self.parts[0]
        if len(parts) == 1:
            return first.pack(ids)
        counts = list(map(len, parts))
        shared: dict[str, Any] = {}
        columns: dict[str, Sequence[Any]] = {
            name: list(chain.from_iterable([part.columns[name] for part in parts]))
            for name in first.columns
        }
        for name in first.shared:
            values = [part.shared[name] for part in parts]
            if _are_equal(values):
                shared[name] = values[0]
            else:
                columns[name] = _repeat(values, counts)
        if first.key_column is not None:
            return Pack(ids, first.key_column, shared, columns)
        return Pack(
            ids, list(chain.from_iterable([part.keys_or_column for part in parts])), shared, columns
        )


def merge(parts: Sequence[Part], ids: Ids, shards: int) -> Iterator[Pack]:
    """Merge parts for one exchange, and yield packs; messages of one key stay in order.

    Parts are merged if they have the same field names. If the exchange has no shards, the messages
    of each key are later sent in packs of their own. So a part whose messages all have one key is
    then merged only with parts of this key. A part with at least LARGE_BATCH messages for each
    shard is not merged, because the packs of this part are large enough.

    A part is the messages that a batch handler publishes by one call.

    Args:
        parts: the parts in the order of publishing.
        ids: the ids of all messages of the parts, in the same order.
        shards: the number of shards of the exchange; 0 if the exchange has no shards.

    """
    groups: list[PartGroup] = []
    # Maps a key to the newest group whose messages all have this key. Maps None to the newest group
    # whose messages can have different keys.
    latest: dict[str | None, PartGroup] = {}
    start, max_messages = 0, LARGE_BATCH * max(shards, 1)
    for part in parts:
        has_one_key = not shards and part.key_column is None and isinstance(part.key, str)
        key = str(part.key) if has_one_key else None
        if (key is None) != (None in latest):
            # This part can have different keys, and each group in `latest` has one key. Or this
            # part has one key, and the group in `latest` can have different keys. In both cases,
            # this part and an earlier group can have a key in common. If a later part were added to
            # that group, its messages could overtake messages of this part with the same key. So no
            # later part is added to the earlier groups.
            latest.clear()
        field_names = (tuple(part.shared), tuple(part.columns), part.key_column)
        count = len(part)
        group = latest.get(key)
        if (
            group is None
            or count >= max_messages
            or not group.is_open
            or group.field_names != field_names
        ):
            group = latest[key] = PartGroup(field_names, is_open=count < max_messages)
            groups.append(group)
        group.parts.append(part)
        group.starts.append(start)
        start += count
    for each in groups:
        yield each.pack(ids if len(groups) == 1 else ids.select(each.indexes()))


def _are_equal(values: Sequence[Any]) -> bool:
    """Whether all values are the same text or the same integer.

    Values of other types count as different. 1, 1.0 and True are equal in Python, but not in JSON.
    """
    kinds = set(map(type, values))
    return kinds <= {str, int} and len(kinds) == 1 and values.count(values[0]) == len(values)


def _repeat(values: Sequence[Any], counts: Sequence[int]) -> list[Any]:
    return list(chain.from_iterable(map(repeat, values, counts)))
