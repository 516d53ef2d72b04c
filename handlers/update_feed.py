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
    readers, places = records.column("follower_id"), _places(records)
    texts, channels = _ensure_tweets(records, places), _channels(records, readers)
    for tweet_id in places.keys() - texts.keys():
        for index in places.pop(tweet_id):
            records.reject(index, f"tweet {tweet_id}: its author is gone")
    gone = {index for index, told in enumerate(channels) if told is None}
    for tweet_id, indexes in places.items() if gone else ():
        places[tweet_id] = [index for index in indexes if index not in gone]
    for index in gone:
        records.reject(index, f"no user has the id {readers[index]}")
    queries.add_feed_entries(
        (tweet_id, [readers[index] for index in indexes]) for tweet_id, indexes in places.items()
    )
    for channel in ("email", "phone"):
        told = {
            tweet_id: [index for index in indexes if channel in (channels[index] or "")]
            for tweet_id, indexes in places.items()
        }
        for causes, columns, shared in _packed(told, texts):
            columns["userId"] = [readers[index] for index in causes]
            keys = [channel] * len(causes)
            bus.publish_columns("send_notification", keys, columns, shared, causes=causes)


def _channels(records: Records, readers: Sequence[int]) -> list[str | None]:
    """Return how each record's reader can be told, None for those who are gone."""
    channels: list[str | None] = records.column("channels")
    unsaid = {reader for reader, told in zip(readers, channels, strict=True) if told is None}
    if not unsaid:
        return channels
    found = queries.channels_of(unsaid)
    pairs = zip(readers, channels, strict=True)
    return [found.get(reader) if told is None else told for reader, told in pairs]


def _places(records: Records) -> dict[int, list[int]]:
    """Return for each tweet the indexes of its records."""
    places: dict[int, list[int]] = {}
    start = 0
    for chunk in records.chunks:
        end = start + len(chunk)
        if "id" in chunk.shared:
            places.setdefault(chunk.shared["id"], []).extend(range(start, end))
        else:
            for index, tweet_id in enumerate(chunk.columns["id"], start):
                places.setdefault(tweet_id, []).append(index)
        start = end
    return places


def _ensure_tweets(records: Records, places: Mapping[int, Sequence[int]]) -> dict[int, str]:
    """Store tweets of other systems; returns the text of each tweet whose author there is."""
    stored = queries.stored_tweets(places)
    missing = {tweet_id: records[places[tweet_id][0]] for tweet_id in places.keys() - stored}
    if missing:
        stored |= queries.ensure_tweets(
            [
                queries.NewTweet(
                    tweet_id, row["author_id"], row["text"], moments.to_us(row["created_at"])
                )
                for tweet_id, row in missing.items()
            ]
        )
    texts = records.column("text")
    return {tweet_id: texts[places[tweet_id][0]] for tweet_id in stored}


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
