"""publish_tweet: send tweets to each follower of their authors, keyed by the follower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from feedbus import Bus, Records, handler
from handlers.schemas import PublishTweet
from store import moments, queries

FIELDS = ("id", "author", "authorId", "text", "createdAt")
AT_ONCE = 10_000
FEW = 1_000


@dataclass(frozen=True, slots=True)
class Part:
    """Some followers whom a tweet goes to; cause is the tweet's place in the batch."""

    cause: int
    tweet: dict[str, Any]
    followers: Sequence[int]


@handler(PublishTweet, batch=True)
def publish_tweet(records: Records, bus: Bus) -> None:
    """Publish an update_feed record a follower, so many at once, so that memory stays small."""
    waiting: list[Part] = []
    count = 0
    for part in _parts(records):
        waiting.append(part)
        count += len(part.followers)
        if count >= AT_ONCE:
            _publish(bus, waiting)
            waiting, count = [], 0
    _publish(bus, waiting)


def _parts(records: Records) -> Iterator[Part]:
    """Go through the tweets and their authors' followers; tweets of nobody are rejected."""
    messages = list(records)
    moments_us = [moments.to_us(message["created_at"]) for message in messages]
    stored = queries.ensure_tweets(
        [
            queries.NewTweet(message["id"], message["author_id"], message["text"], moment_us)
            for message, moment_us in zip(messages, moments_us, strict=True)
        ]
    )
    known: dict[int, list[int]] = {}
    for index, (message, moment_us) in enumerate(zip(messages, moments_us, strict=True)):
        author = message["author_id"]
        if message["id"] not in stored:
            records.reject(index, f"no user has the id {author}, so the tweet has no author")
            continue
        values = (
            message["id"],
            message["author"],
            author,
            message["text"],
            moments.to_text(moment_us),
        )
        tweet = dict(zip(FIELDS, values, strict=True))
        if author not in known:
            chunks = queries.stream_followers(author, AT_ONCE)
            first = next(chunks, [])
            if len(first) > FEW:
                for followers in chain([first], chunks):
                    yield Part(index, tweet, followers)
                continue
            known[author] = first  # who is likely to tweet again in the same batch
        yield Part(index, tweet, known[author])


def _publish(bus: Bus, parts: Sequence[Part]) -> None:
    """Publish one record a follower; what a single tweet's records share is told once."""
    followers = [follower for part in parts for follower in part.followers]
    causes = [part.cause for part in parts for _ in part.followers]
    columns: dict[str, Sequence[Any]] = {"followerId": followers}
    shared: dict[str, Any] = {}
    if len(parts) == 1:
        shared = parts[0].tweet
    else:
        for name in FIELDS:
            columns[name] = [part.tweet[name] for part in parts for _ in part.followers]
    bus.publish_columns("update_feed", list(map(str, followers)), columns, shared, causes=causes)
