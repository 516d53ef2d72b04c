from __future__ import annotations

import functools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from feedbus.handling.imported_objects import resolve_object
from feedbus.store.peewee import bound, database
from store import migrations, queries
from tests.projects import wait_until
from tests.site import Site, fresh_site, problem, served, set_up, topology_in, waiting
from web.demo.load import Load


@pytest.fixture
def site(tmp_path) -> Iterator[Site]:
    with fresh_site(tmp_path) as served_site:
        yield served_site


def test_followers_are_accepted_and_published_when_asynchronous(site):
    author = site.user("followed")
    fields = {"userId": author, "followerLogin": "fan", "count": 7, "async": True}
    answer = site.post("/api/v1/add-followers", fields)
    assert (answer.status, answer.json) == (202, {"accepted": True})
    assert waiting(site, "add_followers") == 1


def test_a_tweet_is_stored_and_published(site):
    author = site.user("author")
    answer = site.post("/api/v1/post-tweet", {"userId": author, "text": "Hello"})
    assert answer.status == 202
    listed = site.get("/api/v1/get-tweets").json["tweets"]
    assert [(one["id"], one["author"], one["text"]) for one in listed] == [
        (answer.json["id"], "author", "Hello")
    ]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", listed[0]["createdAt"]
    )
    assert waiting(site, "publish_tweet") == 1
    wait_until(lambda: not bound().outbox.pending())


def test_a_tweet_posted_synchronously_is_in_the_followers_feeds_at_once(site):
    author = site.user("author")
    fields = {"userId": author, "followerLogin": "fan", "count": 25, "async": False}
    site.post("/api/v1/add-followers", fields)
    posted = site.post("/api/v1/post-tweet", {"userId": author, "text": "At once", "async": False})
    assert posted.status == 201
    reader = site.get("/api/v1/get-tweets")
    assert reader.status == 200
    feeds = [site.get(f"/api/v1/get-feed/{author + n}").json["tweets"] for n in range(1, 26)]
    assert [[tweet["id"] for tweet in feed] for feed in feeds] == [[posted.json["id"]]] * 25
    assert waiting(site, "publish_tweet") == 0
    assert not bound().outbox.pending()


def test_a_synchronous_post_whose_handler_fails_is_undone_and_left_to_the_consumers(
    site, monkeypatch
):
    author = site.user("author")
    fields = {"userId": author, "followerLogin": "fan", "count": 3, "async": False}
    function = resolve_object(site.topology.queues["update_feed"].handler, site.topology.root)

    @functools.wraps(function)
    def write_and_fail(updates):
        function(updates)
        raise RuntimeError

    # Set before the first request, because the same system, with its handlers, serves all requests.
    monkeypatch.setattr("handlers.update_feed.update_feed", write_and_fail)
    site.post("/api/v1/add-followers", fields)
    tweet = {"userId": author, "text": "Later", "async": False}
    assert site.post("/api/v1/post-tweet", tweet).status == 202
    assert site.get(f"/api/v1/get-feed/{author + 1}").json["tweets"] == []
    wait_until(lambda: waiting(site, "publish_tweet") == 1)


def test_a_feed_holds_the_last_tweets_oldest_first(site):
    author = site.user("author")
    fields = {"userId": author, "followerLogin": "fan", "count": 1, "async": False}
    site.post("/api/v1/add-followers", fields)
    for number in range(1, 31):
        tweet = {"userId": author, "text": f"number {number}", "async": False}
        assert site.post("/api/v1/post-tweet", tweet).status == 201
    path = f"/api/v1/get-feed/{author + 1}"
    texts = [tweet["text"] for tweet in site.get(path).json["tweets"]]
    assert texts == [f"number {number}" for number in range(11, 31)]
    texts = [tweet["text"] for tweet in site.get(f"{path}?count=3").json["tweets"]]
    assert texts == ["number 28", "number 29", "number 30"]


def pages_of(site, path, between=lambda: None):
    """Read a list to its end by its cursor; return the ids of each page."""
    pages, query = [], ""
    while True:
        answer = site.get(f"{path}{query}").json
        pages.append([tweet["id"] for tweet in answer["tweets"]])
        if answer["next"] is None:
            return pages
        query = f"&before={answer['next']}"
        between()


def test_a_cursor_repeats_no_tweet_however_many_are_posted_meanwhile(site):
    author = site.user("writer")
    site.post(
        "/api/v1/add-followers",
        {"userId": author, "followerLogin": "fan", "count": 1, "async": False},
    )

    def post():
        fields = {"userId": author, "text": "x", "async": False}
        return site.post("/api/v1/post-tweet", fields).json["id"]

    ids = [post() for _ in range(5)]
    for path in ("/api/v1/get-tweets?perPage=2", f"/api/v1/get-feed/{author + 1}?count=2"):
        pages = pages_of(site, path, between=post)
        read = [number for page in pages for number in sorted(page, reverse=True)]
        assert read == sorted(set(read), reverse=True)
        assert set(ids) <= set(read)
        assert [len(page) for page in pages[:-1]] == [2] * (len(pages) - 1)


def test_a_cursor_goes_on_behind_a_tweet_that_was_deleted(site):
    author = site.user("writer")
    ids = [
        site.post("/api/v1/post-tweet", {"userId": author, "text": "x"}).json["id"]
        for _ in range(3)
    ]
    database.execute_sql(f"DELETE FROM tweet WHERE id = {ids[1]}")
    answer = site.get(f"/api/v1/get-tweets?before={ids[1]}").json
    assert [tweet["id"] for tweet in answer["tweets"]] == [ids[0]]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("before=0", "before"),
        ("before=x", "before"),
        ("before=", "before"),
        (f"before={2**63}", "before"),
    ],
)
def test_a_cursor_that_is_none_is_refused_by_field(site, query, field):
    assert list(problem(site.get(f"/api/v1/get-tweets?{query}"), 400)["errors"]) == [field]


def test_pages_of_tweets_follow_one_another(site):
    author = site.user("author")
    for number in range(5):
        site.post("/api/v1/post-tweet", {"userId": author, "text": str(number)})
    pages = [
        [
            one["text"]
            for one in site.get(f"/api/v1/get-tweets?page={page}&perPage=2").json["tweets"]
        ]
        for page in range(4)
    ]
    assert pages == [["4", "3"], ["2", "1"], ["0"], []]


@pytest.mark.parametrize("text", ["x", "x" * 140, "\U0001f600" * 140, "  x", "é\u0301\n"])
def test_texts_that_fit_are_taken_and_come_back_unchanged(site, text):
    author = site.user("author")
    assert site.post("/api/v1/post-tweet", {"userId": author, "text": text}).status == 202
    assert site.get("/api/v1/get-tweets").json["tweets"][0]["text"] == text


def test_a_repeated_post_with_one_key_is_one_tweet(site):
    author = site.user("author")
    key = {"Idempotency-Key": "once"}
    fields = {"userId": author, "text": "Hello"}
    answers = [site.post("/api/v1/post-tweet", fields, key) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 202]
    assert len({answer.json["id"] for answer in answers}) == 1
    assert len(site.get("/api/v1/get-tweets").json["tweets"]) == 1


def test_a_key_that_stood_for_another_text_is_a_conflict(site):
    author = site.user("author")
    key = {"Idempotency-Key": "once"}
    site.post("/api/v1/post-tweet", {"userId": author, "text": "Hello"}, key)
    answer = site.post("/api/v1/post-tweet", {"userId": author, "text": "Goodbye"}, key)
    assert "Idempotency-Key" in problem(answer, 409)["errors"]


def test_metrics_count_requests_by_route_and_status(site):
    site.get("/api/v1/get-feed/1")
    site.get("/api/v1/get-feed/2")
    site.get("/nothing/at/all")
    site.call("BREW", "/healthz")
    exposed = site.get("/metrics").body.decode()
    sample = 'http_requests_total{method="GET",route="/api/v1/get-feed/<user>",status="404"} 2.0'
    assert sample in exposed
    assert 'route="none",status="404"} 1.0' in exposed
    assert 'method="other",route="none",status="405"} 1.0' in exposed
    assert 'http_request_seconds_count{method="GET",route="/api/v1/get-feed/<user>"} 2' in exposed


def test_a_store_that_cannot_be_written_is_an_outage_and_not_a_crash(site):
    author = site.user("author")
    path = site.topology.store_url.file
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("ALTER TABLE tweet RENAME TO hidden")
        answer = site.post("/api/v1/post-tweet", {"userId": author, "text": "Hello"})
        reported = problem(answer, 503)
        assert answer.headers["Retry-After"]
        assert "table" not in reported["detail"]
        assert str(path) not in answer.body.decode()
        other.execute("ALTER TABLE hidden RENAME TO tweet")
    assert site.post("/api/v1/post-tweet", {"userId": author, "text": "Hello"}).status == 202


def test_a_tweet_is_accepted_while_the_broker_is_away_and_published_when_it_is_back(tmp_path):
    with fresh_site(tmp_path) as first:
        author = first.user("author")
    path = tmp_path / "broker.db"
    kept = path.with_suffix(".kept")
    path.rename(kept)
    for leftover in tmp_path.glob("broker.db-*"):
        leftover.unlink()
    path.mkdir()  # a folder cannot be opened as a broker file
    with served(first.topology) as own:
        for text in ("one", "two"):
            answer = own.post("/api/v1/post-tweet", {"userId": author, "text": text})
            assert answer.status == 202
        assert len(bound().outbox.pending()) == 2
        path.rmdir()
        kept.rename(path)
        wait_until(lambda: not bound().outbox.pending())
        assert waiting(own, "publish_tweet") == 2
        answer = own.post("/api/v1/post-tweet", {"userId": author, "text": "three"})
        assert waiting(own, "publish_tweet") == 3


def test_without_tables_or_a_declared_broker_it_waits_for_them(tmp_path):
    topology = topology_in(tmp_path)
    with served(topology) as own:
        assert own.get("/healthz").status == 200
        problem(own.get("/api/v1/get-tweets"), 503)
    migrations.migrate(topology)
    with served(topology) as own:
        tweet = {"userId": own.user("author"), "text": "Hello"}
        # feedbus's own tables may be missing at first: the thread of the relay creates them.
        wait_until(lambda: own.post("/api/v1/post-tweet", tweet).status == 202)
        wait_until(lambda: waiting(own, "publish_tweet") == 1)
        wait_until(lambda: not bound().outbox.pending())


@pytest.mark.integration
def test_postgres_keeps_users_tweets_and_feeds_as_sqlite_does(tmp_path, postgres):
    url = postgres.new_database()
    topology = topology_in(tmp_path, FEEDBUS_DATABASE_URL=url)
    migrations.migrate(topology)
    set_up(topology)
    with served(topology) as own:
        author = own.user("author")
        problem(own.post("/api/v2/user", {"login": "author", "phone": "4912345"}), 409)
        fields = {"userId": author, "followerLogin": "fan", "count": 3, "async": False}
        assert own.post("/api/v1/add-followers", fields).json == {"created": 3}
        tweet = {"userId": author, "text": "\U0001f600", "async": False}
        answers = [
            own.post("/api/v1/post-tweet", tweet, {"Idempotency-Key": "once"}) for _ in range(2)
        ]
        assert [answer.status for answer in answers] == [201, 201]
        listed = own.get("/api/v1/get-tweets").json["tweets"]
        assert [one["id"] for one in listed] == [answers[0].json["id"]]
        readers = [
            each
            for found in queries.stream_followers(author)
            for ids in found.values()
            for each in ids
        ]
        feeds = [own.get(f"/api/v1/get-feed/{reader}").json["tweets"] for reader in readers]
        assert feeds == [listed] * 3
    postgres.drop_database(url)


def test_the_demo_goes_on_where_a_users_answer_was_lost(tmp_path: Path) -> None:
    reported: list[int] = []
    with fresh_site(tmp_path) as site:
        queries.create_user("author1")
        load = Load(site.port, lambda: None)
        assert load.seed(2, 3, lambda *progress: reported.append(progress[1])) == 5
        with pytest.raises(queries.LoginTaken):
            queries.create_user("author1_1")
    assert reported == [3, 5]
