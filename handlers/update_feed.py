"""update_feed: put tweets into feeds, and have the readers told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from feedbus import Bus, Records, handler
from handlers.schemas import UpdateFeed
from store import moments, queries

OWN_PACK = 100  # from so many readers on, a tweet's notifications travel by themselves


@handler(UpdateFeed, batch=True)
def update_feed(records: Records, bus: Bus) -> None:
    """Add the feed entries of all records at once, then publish a notification for each."""
    readers, places = records.column("follower_id"), _places(records)
    channels = _channels(records, readers)
    gone = {index for index, told in enumerate(channels) if told is None}
    for tweet_id in places if gone else ():
        places[tweet_id] = [index for index in places[tweet_id] if index not in gone]
    deleted = queries.deleted(users={readers[index] for index in gone})
    for index in gone:
        if readers[index] in deleted.users:
            records.drop(index, f"reader {readers[index]} was deleted")
        else:
            records.reject(index, f"no user has the id {readers[index]}")
    stored = _store(records, places, readers)
    _set_aside(records, {each: places.pop(each) for each in places.keys() - stored})
    column = records.column("text")
    texts = {tweet_id: column[indexes[0]] for tweet_id, indexes in places.items() if indexes}
    for channel in ("email", "phone"):
        told = {
            tweet_id: [index for index in indexes if channel in (channels[index] or "")]
            for tweet_id, indexes in places.items()
        }
        for causes, columns, shared in _packed(told, texts):
            columns["userId"] = [readers[index] for index in causes]
            keys = [channel] * len(causes)
            bus.publish_columns("send_notification", keys, columns, shared, causes=causes)


def _set_aside(records: Records, places: Mapping[int, Sequence[int]]) -> None:
    """Drop the records of tweets that were deleted, or their authors; reject the others."""
    authors = {
        tweet: records[indexes[0]]["author_id"] for tweet, indexes in places.items() if indexes
    }
    deleted = queries.deleted(tweets=authors, users=authors.values())
    for tweet, author in authors.items():
        for index in places[tweet]:
            if tweet in deleted.tweets or author in deleted.users:
                records.drop(index, f"tweet {tweet} or its author was deleted")
            else:
                records.reject(index, f"tweet {tweet}: no user has the id {author}")


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


def _store(
    records: Records, places: Mapping[int, Sequence[int]], readers: Sequence[int]
) -> set[int]:
    """Store feed entries, and before them tweets of other systems; returns which tweets there are.

    A tweet whose author is gone is not.
    """

    def entries(tweet_ids: Iterable[int]) -> dict[int, list[int]]:
        return {each: [readers[index] for index in places[each]] for each in tweet_ids}

    stored = queries.add_feed_entries(entries(places))
    foreign = {each: records[places[each][0]] for each in places.keys() - stored if places[each]}
    if not foreign:
        return stored
    ensured = queries.ensure_tweets(
        [
            queries.NewTweet(each, row["author_id"], row["text"], moments.to_us(row["created_at"]))
            for each, row in foreign.items()
        ]
    )
    return stored | queries.add_feed_entries(entries(ensured))


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
