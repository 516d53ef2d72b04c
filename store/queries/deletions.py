"""Find which users and tweets were deleted: messages for them are not errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from store.queries.sql import numbers, rows


@dataclass(frozen=True, slots=True)
class Deleted:
    """The ids of users and tweets that were deleted."""

    users: frozenset[int]
    tweets: frozenset[int]


def deleted(*, users: Iterable[int] = (), tweets: Iterable[int] = ()) -> Deleted:
    """Return which of these users and tweets were deleted."""
    return Deleted(_among(users, "deleted_user"), _among(tweets, "deleted_tweet"))


def _among(ids: Iterable[int], table: str) -> frozenset[int]:
    asked = sorted(set(ids))
    if not asked:
        return frozenset()
    found = rows(f"SELECT {table}.id FROM $ROWS({table})", numbers(asked))  # noqa: S608 -- a table of ours
    return frozenset(row[0] for row in found)
