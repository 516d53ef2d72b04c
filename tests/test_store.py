"""The store's queries, on both databases."""

from __future__ import annotations

import threading
import tracemalloc
from datetime import timedelta
from typing import Any

import pytest

from feedbus.store.peewee import database, on_postgres, transaction
from store import moments, queries
from store.models import EmailNotification, FeedEntry, Follower, SmsNotification, Tweet, User
from store.queries.feeds import READ
from store.queries.sql import numbers, run
from tests.projects import PATIENCE_SECONDS


@pytest.fixture
def author(store_url) -> int:
    return queries.create_user("author", "author@example.com")


def new_tweet(number: int, author: int, text: str, microseconds: int) -> dict[str, Any]:
    moment = moments.EPOCH + timedelta(microseconds=microseconds)
    return {"id": number, "author_id": author, "text": text, "created_at": moment}


def texts(tweets: list[dict]) -> list[str]:
    return [tweet["text"] for tweet in tweets]


def post(author: int, *said: str) -> list[int]:
    return [queries.create_tweet(author, text).tweet["id"] for text in said]


def test_a_login_is_taken_once(author):
    with pytest.raises(queries.LoginTaken, match="author"):
        queries.create_user("author", phone="79000000000")
    assert queries.login_of(author) == "author"


def test_an_unknown_user_is_reported_by_id(store_url):
    for ask in (
        lambda: queries.login_of(7),
        lambda: queries.create_tweet(7, "hi"),
        lambda: queries.add_followers(7, "f", 1),
        lambda: queries.read_feed(7, 20),
    ):
        with pytest.raises(queries.UnknownUser, match="7"):
            ask()


def test_followers_are_numbered_and_reached_by_email_or_phone(author):
    assert queries.add_followers(author, "fan", 4) == 4
    fans = User.select().where(User.login.startswith("fan")).order_by(User.login)
    assert [(fan.login, fan.email, fan.phone) for fan in fans] == [
        ("fan_0", "fan_0@example.com", None),
        ("fan_1", None, "79000000001"),
        ("fan_2", "fan_2@example.com", None),
        ("fan_3", None, "79000000003"),
    ]
    (audience,) = queries.stream_followers(author)
    assert {channels: sorted(ids) for channels, ids in audience.items()} == {
        "email": sorted(fan.id for fan in fans if fan.email),
        "phone": sorted(fan.id for fan in fans if fan.phone),
    }


def test_adding_followers_again_adds_none_and_more_adds_the_rest(author):
    assert queries.add_followers(author, "fan", 3) == 3
    assert queries.add_followers(author, "fan", 3) == 0
    assert queries.add_followers(author, "fan", 5) == 2
    assert queries.add_followers(author, "fan", 2, start=4) == 1
    assert User.select().count() == 7
    assert Follower.select().count() == 6


def test_two_authors_share_followers_of_one_name(author):
    other = queries.create_user("other")
    queries.add_followers(author, "fan", 3)
    assert queries.add_followers(other, "fan", 3) == 3
    assert User.select().count() == 5


def test_nobody_follows_themselves(store_url):
    fan = queries.create_user("fan_1")
    assert queries.add_followers(fan, "fan", 3) == 2


def test_followers_added_by_two_at_once_are_there_once(author, store_url):
    added: list[int] = []

    def add():
        added.append(queries.add_followers(author, "fan", 2000))

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sum(added) == 2000
    assert Follower.select().count() == 2000


def test_followers_are_streamed_in_order_chunk_by_chunk(author):
    queries.add_followers(author, "fan", 25)
    audiences = list(queries.stream_followers(author, chunk=10))
    chunks = [sorted(each for ids in audience.values() for each in ids) for audience in audiences]
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    flat = [each for chunk in chunks for each in chunk]
    assert flat == sorted(set(flat))


def test_followers_come_in_one_order_whoever_asks(author):
    queries.add_followers(author, "fan", 9)
    (streamed,) = queries.stream_followers(author)
    asked = queries.followers_of([author], 9)[author]
    assert list(streamed.items()) == list(asked.items())
    assert list(streamed) == ["email", "phone"]
    assert all(ids == sorted(ids) for ids in streamed.values())


def test_a_large_batch_stores_each_row_once_also_where_some_are_there(author):
    queries.add_followers(author, "fan", 400)
    users = [fan.id for fan in User.select().where(User.email.is_null(False))]
    groups = [(str(number), f"text {number}", users) for number in range(3)]
    queries.add_email_notifications(groups[1:2])
    queries.add_email_notifications(groups)
    found = {(n.source, n.user_id): n.text for n in EmailNotification.select()}
    assert found == {(source, user): text for source, text, reported in groups for user in reported}
    one, two = post(author, "a", "b")
    queries.add_feed_entries({one: users})
    queries.add_feed_entries({one: users, two: users})
    assert FeedEntry.select().count() == 2 * len(users)


def test_the_first_followers_of_many_authors_are_asked_for_at_once(author):
    other, nobody = queries.create_user("other"), queries.create_user("nobody")
    queries.add_followers(author, "fan", 5)
    queries.add_followers(other, "fan", 2)
    found = queries.followers_of([author, other, nobody], 3)
    ids = {each: sorted(i for ids in found[each].values() for i in ids) for each in found}
    first = [fan.id for fan in User.select().where(User.login.startswith("fan_")).order_by(User.id)]
    assert ids == {author: first[:3], other: first[:2], nobody: []}
    assert set(found[author]) == {"email", "phone"}


def test_streaming_many_followers_takes_the_memory_of_one_chunk(author):
    queries.add_followers(author, "fan", 20_000)
    list(queries.stream_followers(author, chunk=100))
    tracemalloc.start()
    for _ in queries.stream_followers(author, chunk=100):
        pass
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 200_000  # 20,000 ids at once would be 700,000


def test_a_tweet_is_returned_as_it_goes_on_the_wire(author):
    posted = queries.create_tweet(author, "née 🙂")
    assert not posted.repeated
    assert posted.tweet.keys() == {"id", "author", "authorId", "text", "createdAt"}
    assert (posted.tweet["author"], posted.tweet["authorId"]) == ("author", author)
    shown = queries.list_tweets(0, 10)
    assert shown == [{key: posted.tweet[key] for key in ("id", "author", "text", "createdAt")}]


def test_a_repeated_request_finds_its_tweet(author):
    first = queries.create_tweet(author, "hi", "key-1")
    again = queries.create_tweet(author, "hi", "key-1")
    assert again.repeated
    assert again.tweet == first.tweet
    assert Tweet.select().count() == 1
    with pytest.raises(queries.KeyReused):
        queries.create_tweet(author, "something else", "key-1")
    other = queries.create_user("other")
    assert not queries.create_tweet(other, "hi", "key-1").repeated


def test_tweets_of_other_systems_are_stored_once_and_only_with_an_author(author):
    foreign = new_tweet(500, author, "from afar", 1_000_000)
    orphan = new_tweet(501, 9999, "whose?", 1_000_000)
    assert queries.ensure_tweets([foreign, orphan]) == {500}
    changed = new_tweet(500, author, "changed", 2_000_000)
    assert queries.ensure_tweets([changed]) == {500}
    assert queries.list_tweets(0, 10) == [
        {
            "id": 500,
            "author": "author",
            "text": "from afar",
            "createdAt": "1970-01-01T00:00:01.000000Z",
        }
    ]


def test_posting_goes_on_among_the_ids_of_other_systems(author):
    foreign = [*range(2, 40), 2**53 + 5, 2**63 - 1]
    queries.ensure_tweets([new_tweet(each, author, "x", 1) for each in foreign])
    own = post(author, "a", "b", "c")
    assert own == sorted(set(own))
    assert not set(own) & set(foreign)
    assert max(own) < 100


def test_tweets_are_listed_by_page_the_newest_first(author):
    post(author, *"abcde")
    assert texts(queries.list_tweets(0, 2)) == ["e", "d"]
    assert texts(queries.list_tweets(2, 2)) == ["a"]
    assert queries.list_tweets(3, 2) == []


def test_a_feed_shows_its_last_entries_the_newest_first(author):
    reader = queries.create_user("reader")
    tweets = post(author, *"abcde")
    queries.add_feed_entries({tweet: [reader] for tweet in tweets})
    assert queries.read_feed(reader, 3) == tweets[:1:-1]
    assert queries.read_feed(reader, 20) == tweets[::-1]
    assert queries.read_feed(author, 20) == []


def test_feed_entries_written_again_are_neither_lost_nor_doubled(author):
    readers = [queries.create_user(f"r{n}") for n in range(5)]
    one, two = post(author, "a", "b")
    assert queries.add_feed_entries({one: readers}) == {one}
    assert queries.add_feed_entries({one: readers[:2]}) == {one}
    assert queries.add_feed_entries({one: readers, two: readers[:3] * 2}) == {one, two}
    assert queries.add_feed_entries({}) == set()
    assert FeedEntry.select().count() == 8


@pytest.mark.parametrize("count", [1, 200])
def test_feed_entries_of_a_tweet_that_is_not_there_are_not_added(author, count):
    (tweet,) = post(author, "a")
    readers = list(range(1, count + 1))
    assert queries.add_feed_entries({tweet: readers, tweet + 1: readers}) == {tweet}
    assert FeedEntry.select().count() == count


def test_two_writers_of_the_same_entries_in_opposite_orders_both_finish(author):
    readers = list(range(1, 3001))
    tweets = post(author, *"abcdefghij")

    def write(order: list[int]):
        for one, two in zip(tweets[:5], tweets[5:], strict=True):
            with transaction():
                queries.add_feed_entries({one: order, two: order})

    threads = [threading.Thread(target=write, args=(o,)) for o in (readers, readers[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert FeedEntry.select().count() == 3000 * 10


def plan(sql: str, *values: object) -> str:
    prefix = "EXPLAIN " if on_postgres() else "EXPLAIN QUERY PLAN "
    return "\n".join(str(row[-1]) for row in run(prefix + sql, *values).fetchall())


def test_reading_a_long_feed_uses_the_key_without_a_sort_or_a_scan(author):
    reader = queries.create_user("reader")
    newest = 100_000
    run(
        "INSERT INTO feed (reader_id, tweet_id) WITH RECURSIVE n (i) AS"
        " (SELECT CAST(1 AS bigint) UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        " SELECT CAST(? AS bigint), i FROM n",
        newest,
        reader,
    )
    tweet = new_tweet(newest, author, "the last", 1)
    queries.ensure_tweets([tweet])
    for analyzed in (False, True):
        if analyzed:
            database.execute_sql("ANALYZE")
        found = plan(READ, reader, newest - 1, 20)
        if on_postgres():
            assert "Index Only Scan Backward using feed_pkey" in found
            assert "Seq Scan on feed" not in found
            assert "Sort" not in found.partition("Index Only Scan Backward")[2]
        else:
            assert "SEARCH feed USING PRIMARY KEY (reader_id=? AND tweet_id<?)" in found
            assert "TEMP B-TREE" not in found
            assert "SCAN feed" not in found
    assert queries.read_feed(reader, 2) == [newest, newest - 1]
    assert queries.read_feed(reader, 2, before=newest - 1) == [newest - 2, newest - 3]
    assert queries.read_feed(reader, 2, before=1) == []
    assert texts(queries.read_tweets([newest, newest - 1])) == ["the last"]


def test_a_batch_looks_users_up_by_key_also_before_there_are_statistics(author):
    queries.add_followers(author, "fan", 20_000)
    found = plan("SELECT users.id FROM $ROWS(users)", numbers(range(1, 101)))
    assert "users_pkey" in found or "SEARCH users USING INTEGER PRIMARY KEY" in found
    assert "Seq Scan on users" not in found


def test_channels_are_those_that_a_user_has(author):
    phone = queries.create_user("p", phone="79000000000")
    both = queries.create_user("b", "b@example.com", "79000000001")
    none = queries.create_user("n")
    assert queries.channels_of([author, phone, both, none, none, 9999]) == {
        author: "email",
        phone: "phone",
        both: "email phone",
        none: "",
    }
    assert queries.channels_of([]) == {}


@pytest.mark.parametrize("text", ["a\tb\\c\nd\re", "\\.", "\\N", "née 🙂", "'; --"])
def test_a_text_is_stored_as_it_is(author, text):
    queries.add_email_notifications([("1", text, [author]), ("2", "beside it", [author])])
    stored = EmailNotification.select().order_by(EmailNotification.source)
    assert [found.text for found in stored] == [text, "beside it"]


def test_notifications_are_stored_once_and_report_who_cannot_be_reached(author):
    phone = queries.create_user("p", phone="79000000000")
    groups = [("1", "one", [author, phone, 9999]), ("2", "two", [author, author])]
    assert queries.add_email_notifications(groups) == {phone, 9999}
    assert queries.add_email_notifications(groups) == {phone, 9999}
    assert queries.add_email_notifications([("1", "changed", [author])]) == set()
    stored = EmailNotification.select().order_by(EmailNotification.source)
    assert [(n.source, n.user_id, n.address, n.text) for n in stored] == [
        ("1", author, "author@example.com", "one"),
        ("2", author, "author@example.com", "two"),
    ]
    assert queries.add_sms_notifications([("1", "one", [phone])]) == set()
    assert [(n.phone, n.text) for n in SmsNotification.select()] == [("79000000000", "one")]
    assert queries.add_sms_notifications([]) == set()
