"""What the two notification handlers share: records by source, and who cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feedbus import Records
from store import queries

Group = tuple[str, str, Sequence[int]]


def store_notifications(
    records: Records,
    add: Callable[[Sequence[Group]], set[int]],
    shorten: Callable[[str], str],
    lacking: str,
) -> None:
    """Store a notification a record; records of users who cannot be told are rejected.

    Those of users who were deleted meanwhile are dropped.

    Args:
        records: loaded by SendNotification.
        add: stores groups of (source, text, users) and returns the users who cannot be told.
        shorten: makes a text fit.
        lacking: what such a user lacks.

    """
    groups: dict[tuple[str, str], list[int]] = {}
    for chunk in records.chunks:
        shared = chunk.shared
        if "text" in shared and shared.get("tweet_id") is not None:
            source = str(shared["tweet_id"])
            groups.setdefault((source, shared["text"]), []).extend(chunk.column("user_id"))
            continue
        columns = map(chunk.column, ("user_id", "tweet_id", "text"))
        for user, tweet, text, message_id in zip(*columns, chunk.ids, strict=True):
            groups.setdefault((_source(tweet, message_id), text), []).append(user)
    untold = add([(source, shorten(text), users) for (source, text), users in groups.items()])
    deleted = queries.deleted(users=untold)
    for index, user in enumerate(records.column("user_id")) if untold else ():
        if user in deleted.users:
            records.drop(index, f"user {user} was deleted")
        elif user in untold:
            records.reject(index, f"user {user} does not exist or has no {lacking}")


def _source(tweet_id: int | None, message_id: str) -> str:
    """Name what is told of, the same at each repeat: a tweet, or else the message itself."""
    return str(tweet_id) if tweet_id is not None else f"message:{message_id}"
