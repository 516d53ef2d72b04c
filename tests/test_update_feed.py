"""The handler that adds tweets to the feeds of readers, on both databases."""

from __future__ import annotations

import pytest

from feedbus import Records, Reject
from feedbus.records.batch import LARGE_BATCH
from feedbus.testing import RecordingBus
from handlers.update_feed import update_feed
from store import queries
from store.models import FeedEntry
from tests.handler_calls import (
    CausedBus,
    dropped,
    feed,
    followers,
    packed,
    records,
    remove,
    run,
    tweet_of,
)


def test_each_reader_gets_the_tweet_and_a_notification_by_the_channel_there_is(author, readers):
    bus = CausedBus()
    found = packed(update_feed, tweet_of(author), {"followerId": readers})
    run(update_feed, found, bus)
    assert [feed(reader) for reader in readers] == [["hello"]] * 3
    assert {found.exchange for found in bus.published} == {"send_notification"}
    published = [(found.key, found.payload["userId"]) for found in bus.published]
    assert published == [("email", readers[0]), ("email", readers[2]), ("phone", readers[1])]
    assert {(n.payload["text"], n.payload["tweetId"]) for n in bus.published} == {("hello", 7)}
    assert bus.causes == [0, 2, 1]
    assert found.verdicts == {}


def test_a_batch_repeated_stores_nothing_twice_and_publishes_the_same(author, readers):
    first, second = CausedBus(), CausedBus()
    for bus in (first, second):
        run(update_feed, packed(update_feed, tweet_of(author), {"followerId": readers}), bus)
    assert FeedEntry.select().count() == 3
    assert first.published == second.published
    assert first.causes == second.causes


def test_plain_messages_of_many_tweets_are_one_batch(author, readers):
    payloads = [
        tweet_of(author, id=number, text=f"tweet {number}", followerId=reader)
        for number in (1, 2, 3)
        for reader in readers
    ]
    bus = CausedBus()
    run(update_feed, records(update_feed, payloads), bus)
    assert feed(readers[1]) == ["tweet 1", "tweet 2", "tweet 3"]
    published = [(n.key, n.payload["userId"], n.payload["text"]) for n in bus.published]
    assert sorted(published) == sorted(
        ("phone" if place == 1 else "email", reader, f"tweet {number}")
        for number in (1, 2, 3)
        for place, reader in enumerate(readers)
    )
    assert [payloads[cause]["followerId"] for cause in bus.causes] == [
        found.payload["userId"] for found in bus.published
    ]


def test_a_tweet_of_many_readers_shares_its_text_among_other_tweets(author):
    queries.add_followers(author, "fan", 2 * LARGE_BATCH)
    readers = followers(author)
    many = packed(update_feed, tweet_of(author, id=1, text="many"), {"followerId": readers})
    few = packed(update_feed, tweet_of(author, id=2, text="few"), {"followerId": readers[:2]})
    bus = CausedBus()
    run(update_feed, Records([*many.batch.chunks, *few.batch.chunks]), bus)
    assert sorted((n.payload["text"], n.payload["userId"]) for n in bus.published) == sorted(
        [("many", reader) for reader in readers] + [("few", reader) for reader in readers[:2]]
    )
    assert sorted(bus.causes) == list(range(2 * LARGE_BATCH + 2))


def test_how_readers_can_be_notified_is_believed_where_the_publisher_knows_it(author, readers):
    bus = RecordingBus()
    columns = {"followerId": readers, "channels": ["phone", "", "email phone"]}
    run(update_feed, packed(update_feed, tweet_of(author), columns), bus)
    assert [(found.key, found.payload["userId"]) for found in bus.published] == [
        ("email", readers[2]),
        ("phone", readers[0]),
        ("phone", readers[2]),
    ]
    assert [feed(reader) for reader in readers] == [["hello"]] * 3


def test_a_reader_that_is_unknown_is_rejected_alone(author, readers):
    bus = RecordingBus()
    found = packed(update_feed, tweet_of(author), {"followerId": [readers[0], 9999, readers[1]]})
    run(update_feed, found, bus)
    assert {index: verdict.reason for index, verdict in found.verdicts.items()} == {
        1: "no user has the id 9999"
    }
    assert FeedEntry.select().count() == 2
    assert len(bus.published) == 2


def test_a_record_whose_author_is_unknown_is_rejected_alone(author, readers):
    payloads = [
        tweet_of(4444, id=1, followerId=readers[0]),
        tweet_of(author, id=2, followerId=readers[0]),
    ]
    found = records(update_feed, payloads)
    run(update_feed, found, RecordingBus())
    assert list(found.verdicts) == [0]
    assert isinstance(found.verdicts[0], Reject)
    assert found.verdicts[0].reason == "tweet 1: no user has the id 4444"
    assert len(feed(readers[0])) == 1


def test_a_reader_without_a_channel_gets_the_tweet_and_no_notification(author):
    silent = queries.create_user("silent")
    bus = RecordingBus()
    found = records(update_feed, [tweet_of(author, followerId=silent)])
    run(update_feed, found, bus)
    assert feed(silent) == ["hello"]
    assert (bus.published, found.verdicts) == ([], {})


@pytest.mark.parametrize("table", ["users", "tweet"])
def test_feed_updates_of_a_deleted_tweet_or_author_are_dropped(author, readers, table):
    tweet = queries.create_tweet(author, "hello").tweet
    remove(table, author if table == "users" else tweet["id"])
    bus = RecordingBus()
    columns = {"followerId": readers, "channels": ["email"] * 3}
    found = packed(update_feed, tweet, columns)
    run(update_feed, found, bus)
    assert dropped(found) == dict.fromkeys(
        range(3), f"tweet {tweet['id']} or its author was deleted"
    )
    assert (FeedEntry.select().count(), bus.published) == (0, [])


def test_feed_updates_of_a_deleted_reader_are_dropped_alone(author, readers):
    remove("users", readers[1])
    found, bus = packed(update_feed, tweet_of(author), {"followerId": readers}), RecordingBus()
    run(update_feed, found, bus)
    assert dropped(found) == {1: f"reader {readers[1]} was deleted"}
    assert (FeedEntry.select().count(), len(bus.published)) == (2, 2)
