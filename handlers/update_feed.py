"""update_feed: put tweets into feeds, and have the readers told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from feedbus import Bus, Records, handler
from handlers.schemas import UpdateFeed
from store import moments, queries

OWN_PACK = 100  # from so many readers on, a tweet's notifications travel by themselves


@handler(UpdateFeed, batch=True)
def update_feed(records: Records, bus: Bus) -> None:
    """Add the feed entries of all records at once, then publish a notification for each."""
    tweet_ids, readers = records.column("id"), records.column("follower_id")
    texts = _ensure_tweets(records)
    channels = queries.channels_of(readers)
    places: dict[int, list[int]] = {}
    for index, (tweet_id, reader) in enumerate(zip(tweet_ids, readers, strict=True)):
        if tweet_id not in texts:
            records.reject(index, f"tweet {tweet_id}: its author is gone")
        elif reader not in channels:
            records.reject(index, f"no user has the id {reader}")
        else:
            places.setdefault(tweet_id, []).append(index)
    queries.add_feed_entries(
        (tweet_id, [readers[index] for index in found]) for tweet_id, found in places.items()
    )
    for channel in ("email", "phone"):
        told = {
            tweet_id: [index for index in found if channel in channels[readers[index]]]
            for tweet_id, found in places.items()
        }
        for causes, columns, shared in _packed(told, texts):
            columns["userId"] = [readers[index] for index in causes]
            keys = [channel] * len(causes)
            bus.publish_columns("send_notification", keys, columns, shared, causes=causes)


def _ensure_tweets(records: Records) -> dict[int, str]:
    """Store tweets of other systems; returns the text of each tweet whose author there is."""
    tweets: dict[int, queries.NewTweet] = {}
    for chunk in records.chunks:
        for index, tweet_id in enumerate(chunk.column("id")):
            if tweet_id not in tweets:
                row = chunk.row(index)
                moment_us = moments.to_us(row["created_at"])
                tweets[tweet_id] = queries.NewTweet(
                    tweet_id, row["author_id"], row["text"], moment_us
                )
    stored = queries.ensure_tweets(list(tweets.values()))
    return {tweet_id: tweet.text for tweet_id, tweet in tweets.items() if tweet_id in stored}


def _packed(
    told: Mapping[int, Sequence[int]], texts: Mapping[int, str]
) -> Iterator[tuple[list[int], dict[str, list[Any]], dict[str, Any]]]:
    """Group records for publishing: a tweet of many readers shares its text, the others mix.

    Yields (indexes of records, columns without userId, shared fields).
    """
    mixed: list[tuple[int, int]] = []
    for tweet_id, indexes in told.items():
        if len(indexes) >= OWN_PACK:
            yield list(indexes), {}, {"text": texts[tweet_id], "tweetId": tweet_id}
        else:
            mixed += [(index, tweet_id) for index in indexes]
    mixed.sort()
    tweet_ids = [tweet_id for _, tweet_id in mixed]
    columns: dict[str, list[Any]] = {
        "text": [texts[tweet_id] for tweet_id in tweet_ids],
        "tweetId": tweet_ids,
    }
    yield [index for index, _ in mixed], columns, {}
