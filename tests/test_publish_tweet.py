"""The handler that sends a tweet to the followers of its author, on both databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedbus.testing import Published, RecordingBus
from handlers.publish_tweet import publish_tweet
from store import queries
from store.queries import users
from tests.handler_calls import (
    CausedBus,
    dropped,
    followers,
    records,
    remove,
    run,
    tweet_of,
)


def by_follower(bus: RecordingBus) -> list[Mapping[str, Any]]:
    return sorted((found.payload for found in bus.published), key=lambda n: n["followerId"])


def test_a_tweet_goes_to_each_follower_under_the_followers_key(author, readers):
    tweet = queries.create_tweet(author, "hello").tweet
    bus = RecordingBus()
    run(publish_tweet, records(publish_tweet, [tweet]), bus)
    assert {(found.exchange, found.key) for found in bus.published} == {
        ("update_feed", str(reader)) for reader in readers
    }
    assert by_follower(bus) == [
        {**tweet, "followerId": reader, "channels": "phone" if place == 1 else "email"}
        for place, reader in enumerate(readers)
    ]


def test_a_tweet_of_another_system_is_stored_and_sent_on(author, readers):
    bus = RecordingBus()
    foreign = tweet_of(author, createdAt="2020-05-05 01:02:03", extra="ignored")
    run(publish_tweet, records(publish_tweet, [foreign]), bus)
    assert len(bus.published) == 3
    assert queries.list_tweets(0, 1)[0]["createdAt"] == "2020-05-05T01:02:03.000000Z"


def test_a_tweet_of_an_unknown_author_is_rejected_with_the_reason(store_url):
    bus = RecordingBus()
    tweets = records(publish_tweet, [tweet_of(5)])
    run(publish_tweet, tweets, bus)
    assert "no user has the id 5" in str(tweets.verdicts[0])
    assert bus.published == []


def test_tweets_of_one_batch_go_out_together_each_with_its_own_text(author, readers):
    other = queries.create_user("other", "other@example.com")
    tweets = [queries.create_tweet(author, f"text {n}").tweet for n in range(3)]
    tweets.insert(1, queries.create_tweet(other, "to nobody").tweet)
    bus = CausedBus()
    run(publish_tweet, records(publish_tweet, tweets), bus)
    texts = [tweet["text"] for tweet in tweets if tweet["authorId"] == author]
    for reader in readers:
        found = [each.payload for each in bus.published if each.payload["followerId"] == reader]
        assert [payload["text"] for payload in found] == texts
    assert bus.causes == [index for index in (0, 2, 3) for _ in readers]


def test_an_author_of_many_followers_reaches_each_once_a_tweet(author, readers, monkeypatch):
    monkeypatch.setattr(users, "FEW", 2)
    monkeypatch.setattr(users, "AT_ONCE", 2)
    queries.add_followers(author, "more", 6)
    tweets = [queries.create_tweet(author, f"text {n}").tweet for n in range(2)]
    bus = CausedBus()
    run(publish_tweet, records(publish_tweet, tweets), bus)
    assert [(found.payload["text"], found.payload["followerId"]) for found in by_tweet(bus)] == [
        (tweet["text"], reader) for tweet in tweets for reader in followers(author)
    ]
    assert sorted(bus.causes) == [0] * 9 + [1] * 9


def by_tweet(bus: RecordingBus) -> list[Published]:
    return sorted(bus.published, key=lambda n: (n.payload["text"], n.payload["followerId"]))


def test_a_tweet_without_followers_is_sent_to_nobody(author):
    bus = RecordingBus()
    run(publish_tweet, records(publish_tweet, [tweet_of(author)]), bus)
    assert bus.published == []


def test_a_tweet_of_a_deleted_author_is_dropped_and_its_neighbours_are_sent(author, readers):
    other = queries.create_user("other", "other@example.com")
    tweets = [queries.create_tweet(each, "hello").tweet for each in (other, author)]
    remove("users", other)
    found, bus = records(publish_tweet, tweets), RecordingBus()
    run(publish_tweet, found, bus)
    assert dropped(found) == {0: f"tweet {tweets[0]['id']} or its author was deleted"}
    assert len(bus.published) == 3


def test_a_deleted_tweet_is_not_stored_again_by_a_message_of_it(author, readers):
    tweet = queries.create_tweet(author, "hello").tweet
    remove("tweet", tweet["id"])
    found, bus = records(publish_tweet, [tweet]), RecordingBus()
    run(publish_tweet, found, bus)
    assert list(dropped(found)) == [0]
    assert (queries.list_tweets(0, 5), bus.published) == ([], [])


def test_the_id_of_a_deleted_tweet_is_given_to_no_other(author):
    first = queries.create_tweet(author, "first").tweet
    remove("tweet", first["id"])
    assert queries.create_tweet(author, "second").tweet["id"] > first["id"]
