"""publish_tweet: send tweets to each follower of their authors, keyed by the follower."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

from feedbus import Bus, Records, handler
from handlers.schemas import PublishTweet
from store import moments, queries

FIELDS = ("id", "author", "authorId", "text", "createdAt", "channels")
AT_ONCE = 50_000
FEW = 1_000
KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Part:
    """Some followers whom a tweet goes to, and how they can be told.

    Attributes:
        cause: the tweet's place in the batch.
        shared: what their records have in common.
        followers: their ids.

    """

    cause: int
    shared: dict[str, Any]
    followers: Sequence[int]


class Followers:
    """Who follows a batch's authors: asked for once, and kept where they are not too many."""

    def __init__(self, authors: Iterable[int]) -> None:
        """Ask at once for the followers of all those who have few."""
        found = queries.followers_of(authors, FEW + 1)
        self._kept = {
            author: [audience] for author, audience in found.items() if _count(audience) <= FEW
        }
        self._room = KEPT

    def of(self, author: int) -> Iterator[queries.Audience]:
        """Go through an author's followers, some at a time."""
        if author in self._kept:
            yield from self._kept[author]
            return
        kept: list[queries.Audience] = []
        count = 0
        for audience in queries.stream_followers(author, AT_ONCE):
            yield audience
            count += _count(audience)
            if count <= self._room:
                kept.append(audience)
            else:
                kept.clear()
        if count <= self._room:
            self._kept[author] = kept
            self._room -= count


def _count(audience: queries.Audience) -> int:
    return sum(map(len, audience.values()))


@handler(PublishTweet, batch=True)
def publish_tweet(records: Records, bus: Bus) -> None:
    """Publish an update_feed record a follower, so many at once, so that memory stays small."""
    waiting: list[Part] = []
    count = 0
    for part in _parts(records):
        many = len(part.followers) > FEW
        if many or count >= AT_ONCE:
            _publish(bus, waiting)
            waiting, count = [], 0
        if many:
            _publish(bus, [part])
        else:
            waiting.append(part)
            count += len(part.followers)
    _publish(bus, waiting)


def _parts(records: Records) -> Iterator[Part]:
    """Go through the tweets and their authors' followers; tweets of nobody are rejected.

    Those whose author was deleted meanwhile are dropped.
    """
    messages = list(records)
    moments_us = [moments.to_us(message["created_at"]) for message in messages]
    stored = queries.ensure_tweets(
        [
            queries.NewTweet(message["id"], message["author_id"], message["text"], moment_us)
            for message, moment_us in zip(messages, moments_us, strict=True)
        ]
    )
    lacking = [message for message in messages if message["id"] not in stored]
    deleted = queries.deleted(
        tweets=[message["id"] for message in lacking],
        users=[message["author_id"] for message in lacking],
    )
    followers = Followers({message["author_id"] for message in messages})
    for index, (message, moment_us) in enumerate(zip(messages, moments_us, strict=True)):
        author = message["author_id"]
        if message["id"] not in stored:
            if message["id"] in deleted.tweets or author in deleted.users:
                records.drop(index, f"tweet {message['id']} or its author was deleted")
            else:
                records.reject(index, f"no user has the id {author}, so the tweet has no author")
            continue
        told = (message["author"], author, message["text"], moments.to_text(moment_us))
        for audience in followers.of(author):
            for channels, some in audience.items():
                values = (message["id"], *told, channels)
                yield Part(index, dict(zip(FIELDS, values, strict=True)), some)


def _publish(bus: Bus, parts: Sequence[Part]) -> None:
    """Publish one record a follower; what the records of a single part share is told once."""
    shared: dict[str, Any] = {}
    columns: dict[str, Sequence[Any]] = {}
    if len(parts) == 1:
        shared = parts[0].shared
    else:
        columns.update({name: _repeated(parts, name) for name in FIELDS})
    columns["followerId"] = list(chain.from_iterable(part.followers for part in parts))
    causes = chain.from_iterable(repeat(part.cause, len(part.followers)) for part in parts)
    bus.publish_columns("update_feed", "followerId", columns, shared, causes=list(causes))


def _repeated(parts: Sequence[Part], name: str) -> list[Any]:
    values = (repeat(part.shared[name], len(part.followers)) for part in parts)
    return list(chain.from_iterable(values))
