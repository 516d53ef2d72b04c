"""Find which users and tweets were deleted: messages for them are not errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from store.queries.sql import numbers, rows


@dataclass(frozen=True, slots=True)
class Deleted:
    """The ids of users and tweets that were deleted; the result of deleted().

    Attributes:
        users: the ids of the users.
        tweets: the ids of the tweets.

    """

    users: frozenset[int]
    tweets: frozenset[int]


def deleted(*, users: Iterable[int] = (), tweets: Iterable[int] = ()) -> Deleted:
    """Return which of some users and tweets were deleted.

    Handlers call the function for ids that they do not find.

    Args:
        users: the ids of users.
        tweets: the ids of tweets.

    """
    return Deleted(_among(users, "deleted_user"), _among(tweets, "deleted_tweet"))


def _among(ids: Iterable[int], table: str) -> frozenset[int]:
    asked = sorted(set(ids))
    if not asked:
        return frozenset()
    found = rows(f"SELECT {table}.id FROM $ROWS({table})", numbers(asked))  # noqa: S608 -- a table of ours
    return frozenset(row[0] for row in found)
