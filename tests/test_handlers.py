"""The handlers, each called as a runner calls it, on both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from feedbus import Drop, Records, Reject
from feedbus.handling.handlers import MARK
from feedbus.records.batch import LARGE
from feedbus.records.packs import Pack
from feedbus.store.peewee import database
from feedbus.testing import Published, RecordingBus
from handlers.add_followers import add_followers
from handlers.publish_tweet import publish_tweet
from handlers.send_notification import send_email, send_sms
from handlers.update_feed import update_feed
from store import queries
from store.models import EmailNotification, FeedEntry, Follower, SmsNotification
from store.queries import users

MOMENT = "2026-11-24T22:15:57.123456Z"


class CausedBus(RecordingBus):
    """Records also which record of the batch caused what."""

    def __init__(self) -> None:
        super().__init__()
        self.causes: list[int] = []

    def publish_part(self, part):
        self.causes += part.causes
        super().publish_part(part)


def run(function: Any, records: Records, bus: RecordingBus) -> None:
    """Call a batch handler as dispatch does: what records publish goes to the bus."""
    records.bind(bus)
    function(records)


def loaded(function: Any, payload: Mapping[str, Any]) -> dict[str, Any]:
    return getattr(function, MARK).declared().load(payload)


def records(function: Any, payloads: Sequence[Mapping[str, Any]]) -> Records:
    return Records.of([loaded(function, payload) for payload in payloads])


def packed(function: Any, shared: Mapping[str, Any], columns: Mapping[str, list]) -> Records:
    pack = Pack.numbered("pack", next(iter(columns)), shared, columns)
    return Records([getattr(function, MARK).message_type().load(pack).chunk])


def tweet_of(author: int, **changes: Any) -> dict[str, Any]:
    tweet = {"id": 7, "author": "author", "authorId": author, "text": "hello", "createdAt": MOMENT}
    return tweet | changes


def feed(user: int) -> list[str]:
    tweets = {
        tweet["id"]: tweet["text"] for tweet in queries.read_tweets(queries.read_feed(user, 20))
    }
    return [tweets[number] for number in sorted(tweets)]


def followers(author: int) -> list[int]:
    audiences = queries.stream_followers(author)
    return sorted(each for audience in audiences for ids in audience.values() for each in ids)


@pytest.fixture
def author(store_url) -> int:
    return queries.create_user("author", "author@example.com")


@pytest.fixture
def readers(author) -> list[int]:
    """Three followers: by e-mail, by phone, by e-mail."""
    queries.add_followers(author, "fan", 3)
    return followers(author)


# add_followers


def test_followers_are_added_once_however_often_the_message_comes(author):
    message = loaded(add_followers, {"userId": author, "followerLogin": "fan", "count": 3})
    for _ in range(2):
        add_followers(message)
    assert Follower.select().count() == 3


def test_followers_of_an_unknown_user_are_rejected_with_the_reason(store_url):
    message = loaded(add_followers, {"userId": 5, "followerLogin": "fan", "count": 3})
    with pytest.raises(Reject, match="no user has the id 5"):
        add_followers(message)


# publish_tweet


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


# update_feed


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
    queries.add_followers(author, "fan", 2 * LARGE)
    readers = followers(author)
    many = packed(update_feed, tweet_of(author, id=1, text="many"), {"followerId": readers})
    few = packed(update_feed, tweet_of(author, id=2, text="few"), {"followerId": readers[:2]})
    bus = CausedBus()
    run(update_feed, Records([*many.batch.chunks, *few.batch.chunks]), bus)
    assert sorted((n.payload["text"], n.payload["userId"]) for n in bus.published) == sorted(
        [("many", reader) for reader in readers] + [("few", reader) for reader in readers[:2]]
    )
    assert sorted(bus.causes) == list(range(2 * LARGE + 2))


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


# send_email, send_sms


def test_an_email_is_stored_once_for_a_tweet_however_often_it_is_sent(author):
    payload = {"userId": author, "text": "hello", "tweetId": 7}
    for _ in range(2):
        run(send_email, records(send_email, [payload, payload]), RecordingBus())
    stored = [(n.source, n.user_id, n.address, n.text) for n in EmailNotification.select()]
    assert stored == [("7", author, "author@example.com", "hello")]


def test_a_notification_without_a_tweet_is_known_by_its_message(author):
    payload = {"userId": author, "text": "hello"}
    loaded_rows = [loaded(send_email, payload)] * 3
    for _ in range(2):
        run(send_email, Records.of(loaded_rows, ids=["7", "b", "7"]), RecordingBus())
    run(send_email, records(send_email, [payload | {"tweetId": 7}]), RecordingBus())
    sources = sorted(found.source for found in EmailNotification.select())
    assert sources == ["7", "message:7", "message:b"]


@pytest.mark.parametrize(
    ("text", "stored"),
    [("x" * 60, "x" * 60), ("x" * 61, "x" * 59 + "…"), ("🙂" * 140, "🙂" * 59 + "…")],
)
def test_a_long_text_is_shortened_for_a_phone(author, readers, text, stored):
    run(send_sms, records(send_sms, [{"userId": readers[1], "text": text}]), RecordingBus())
    assert [found.text for found in SmsNotification.select()] == [stored]


def test_users_who_cannot_be_notified_are_rejected_alone(author, readers):
    payloads = [{"userId": user, "text": "t", "tweetId": 1} for user in (*readers, 9999)]
    by_email, by_phone = records(send_email, payloads), records(send_sms, payloads)
    run(send_email, by_email, RecordingBus())
    run(send_sms, by_phone, RecordingBus())
    assert {i: v.reason for i, v in by_email.verdicts.items()} == {
        1: f"user {readers[1]} does not exist or has no e-mail address",
        3: "user 9999 does not exist or has no e-mail address",
    }
    assert sorted(by_phone.verdicts) == [0, 2, 3]
    assert [found.user_id for found in EmailNotification.select()] == [readers[0], readers[2]]
    assert [found.user_id for found in SmsNotification.select()] == [readers[1]]


# what was deleted before a message about it came


def remove(table: str, *ids: int) -> None:
    for each in ids:
        database.execute_sql(f"DELETE FROM {table} WHERE id = {each}")


def dropped(found: Records) -> dict[int, str]:
    assert all(isinstance(verdict, Drop) for verdict in found.verdicts.values()), found.verdicts
    return {index: verdict.reason for index, verdict in found.verdicts.items()}


def test_followers_of_a_deleted_user_are_dropped(author):
    remove("users", author)
    message = loaded(add_followers, {"userId": author, "followerLogin": "fan", "count": 3})
    with pytest.raises(Drop, match=f"no user has the id {author}"):
        add_followers(message)


def test_a_tweet_of_a_deleted_author_is_dropped_and_its_neighbours_are_sent(author, readers):
    other = queries.create_user("other", "other@example.com")
    tweets = [queries.create_tweet(each, "hello").tweet for each in (other, author)]
    remove("users", other)
    found, bus = records(publish_tweet, tweets), RecordingBus()
    run(publish_tweet, found, bus)
    assert dropped(found) == {0: f"tweet {tweets[0]['id']} or its author was deleted"}
    assert len(bus.published) == 3


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


def test_feed_updates_of_a_deleted_reader_are_dropped_alone(author, readers):
    remove("users", readers[1])
    found, bus = packed(update_feed, tweet_of(author), {"followerId": readers}), RecordingBus()
    run(update_feed, found, bus)
    assert dropped(found) == {1: f"reader {readers[1]} was deleted"}
    assert (FeedEntry.select().count(), len(bus.published)) == (2, 2)


def test_notifications_of_a_deleted_user_are_dropped_alone(author, readers):
    remove("users", readers[0])
    payloads = [{"userId": user, "text": "t", "tweetId": 1} for user in (readers[0], readers[2])]
    by_email, by_phone = records(send_email, payloads), records(send_sms, payloads[:1])
    run(send_email, by_email, RecordingBus())
    run(send_sms, by_phone, RecordingBus())
    assert dropped(by_email) == dropped(by_phone) == {0: f"user {readers[0]} was deleted"}
    assert [found.user_id for found in EmailNotification.select()] == [readers[2]]
