"""Compare the rows that a run has stored with the expected rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench.graphs import Tweet
from feedbus.store.peewee import on_postgres, transaction
from handlers.send_notification import shorten
from store.queries.sql import rows, run, run_each

PATIENCE_SECONDS = 120.0
FIRST_CHECK_SECONDS, LAST_CHECK_SECONDS, LONGEST_SECONDS = 0.1, 0.03, 2.0

# Pairs of queries: the rows that had to be stored, and the rows that are stored.
FEED = (
    """
    SELECT follower_id, id, text FROM expected JOIN follower USING (author_id)
    """,
    """
    SELECT reader_id, feed.tweet_id, tweet.text
    FROM feed JOIN expected ON expected.id = tweet_id JOIN tweet ON tweet.id = tweet_id
    """,
)
EMAILS = (
    """
    SELECT follower_id, source, email, text
    FROM expected JOIN follower USING (author_id) JOIN users ON users.id = follower_id
    WHERE email IS NOT NULL
    """,
    """
    SELECT user_id, source, address, notice.text
    FROM email_notification AS notice JOIN expected USING (source)
    """,
)
MESSAGES = (
    """
    SELECT follower_id, source, phone, short_text
    FROM expected JOIN follower USING (author_id) JOIN users ON users.id = follower_id
    WHERE phone IS NOT NULL
    """,
    """
    SELECT user_id, source, phone, notice.text
    FROM sms_notification AS notice JOIN expected USING (source)
    """,
)
JSON_FEED = (
    FEED[0],
    """
    SELECT reader_id, CAST(entry ->> 'id' AS bigint), entry ->> 'text'
    FROM json_feed CROSS JOIN jsonb_array_elements(CAST(tweets AS jsonb)) AS entry
    JOIN expected ON expected.id = CAST(entry ->> 'id' AS bigint)
    """,
)


def expect(tweets: Sequence[Tweet]) -> int:
    """Register the tweets that a run must deliver; return the number of their followers."""
    run("DROP TABLE IF EXISTS expected")
    run(
        "CREATE TABLE expected (id bigint PRIMARY KEY, source text, author_id bigint, text text,"
        " short_text text)"
    )
    add = "INSERT INTO expected (id, source, author_id, text, short_text) VALUES (?, ?, ?, ?, ?)"
    noted = [(t.id, str(t.id), t.author_id, t.text, shorten(t.text)) for t in tweets]
    if on_postgres():
        with transaction():
            for row in noted:
                run(add, *row)
        run("ANALYZE expected")
    else:
        run_each(add, noted)
    return count("SELECT id FROM expected JOIN follower USING (author_id)")


def count(query: str) -> int:
    """Count the rows of a query."""
    return int(rows(f"SELECT count(*) FROM ({query}) AS counted")[0][0])  # noqa: S608 -- ours


def notifications() -> int:
    """Count all notifications; each is the last effect of a feed update."""
    emails, messages = "SELECT 1 FROM email_notification", "SELECT 1 FROM sms_notification"
    return count(emails) + count(messages)


def await_rows(count: Callable[[], int], wanted: int, started: float) -> float:
    """Wait until count() returns wanted; return the seconds since started.

    It counts rarely at first and more often near the end, so that counting costs little and the
    end is reported to a few hundredths of a second.

    Raises:
        AssertionError: nothing has changed for two minutes, or there are too many.

    """
    seen, changed = 0, time.monotonic()
    while True:
        found, now = count(), time.monotonic()
        if found >= wanted:
            assert found == wanted, f"expected {wanted} rows, got {found}"
            return now - started
        if found != seen:
            seen, changed = found, now
        assert now - changed < PATIENCE_SECONDS, f"expected {wanted} rows, got {found}, stuck"
        rest = (now - started) * (wanted - found) / found if found else FIRST_CHECK_SECONDS
        time.sleep(min(max(rest / 3, LAST_CHECK_SECONDS), LONGEST_SECONDS))


def check(feed: tuple[str, str] = FEED) -> int:
    """Compare the expected tweets' feed entries and notifications; return how many entries.

    Raises:
        AssertionError: a row is missing, exists twice, or has other content.

    """
    for what, (wanted, stored) in {"feed": feed, "e-mail": EMAILS, "SMS": MESSAGES}.items():
        lost = rows(f"SELECT * FROM ({wanted} EXCEPT {stored}) AS lost LIMIT 3")  # noqa: S608 -- ours
        assert not lost, f"{what}: lost or wrong: {lost}"
        wrong = rows(f"SELECT * FROM ({stored} EXCEPT {wanted}) AS wrong LIMIT 3")  # noqa: S608 -- ours
        assert not wrong, f"{what}: nobody called for: {wrong}"
        right, there = count(wanted), count(stored)
        assert there == right, f"{what}: expected {right} rows, got {there}: some are doubled"
    return count(feed[1])
