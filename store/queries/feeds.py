"""Feeds: one row for each reader and tweet, so a long feed costs no more than a short one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedbus.store.peewee import on_postgres
from store.queries.sql import WORTH_COPYING, copy, numbers, rows, run, run_each
from store.queries.tweets import stored_tweets
from store.queries.users import login_of

READ = """
    SELECT tweet_id FROM feed WHERE reader_id = ? AND tweet_id <= ? ORDER BY tweet_id DESC LIMIT ?
"""
LAST = 2**63 - 1  # no id is larger
ADD_TWEET_SQLITE = """
    INSERT INTO feed (reader_id, tweet_id) SELECT value, ? FROM $NUMBERS
    WHERE true ON CONFLICT DO NOTHING
"""
ADD_PAIR_SQLITE = "INSERT INTO feed (reader_id, tweet_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
ADD_MISSING_POSTGRES = """
    INSERT INTO feed (reader_id, tweet_id)
    SELECT * FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[])) ON CONFLICT DO NOTHING
"""
# What takes two statements for many entries takes one for a few.
ADD_FEW_POSTGRES = """
    WITH there AS (SELECT tweet.id FROM $ROWS(tweet)), added AS (
        INSERT INTO feed (reader_id, tweet_id)
        SELECT reader_id, tweet_id
        FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[])) WITH ORDINALITY
            AS given (reader_id, tweet_id, place)
        WHERE tweet_id IN (SELECT id FROM there)
        ORDER BY place
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM there
"""


def add_feed_entries(readers: Mapping[int, Sequence[int]]) -> set[int]:
    """Put tweets into feeds; return the ids of the tweets that exist.

    Args:
        readers: maps the id of each tweet to the ids of the readers whose feeds get the tweet. For
            a tweet that does not exist, nothing is added. Existing entries stay.

    """
    # In one order everywhere, so that two processes that write the same entries cannot deadlock,
    # and a reader's entries side by side, so that the index is gone through once.
    if on_postgres() and sum(map(len, readers.values())) < WORTH_COPYING:
        found = rows(ADD_FEW_POSTGRES, numbers(readers), *_numbers(_lines(readers)))
        return {row[0] for row in found}
    there = stored_tweets(readers)
    known = {tweet: readers[tweet] for tweet in there}
    if on_postgres():
        lines = _lines(known)
        copy(
            "feed (reader_id, tweet_id)",
            "".join(lines),
            lambda: run(ADD_MISSING_POSTGRES, *_numbers(lines)),
        )
    elif len(known) == 1:
        ((tweet, some),) = known.items()
        run(ADD_TWEET_SQLITE, tweet, numbers(sorted(some)))
    else:
        pairs = ((reader, tweet) for tweet, some in known.items() for reader in some)
        run_each(ADD_PAIR_SQLITE, sorted(pairs))
    return there


def _lines(readers: Mapping[int, Sequence[int]]) -> list[str]:
    ends = ((f"\t{tweet}\n", some) for tweet, some in readers.items())
    return sorted([f"{reader}{end}" for end, some in ends for reader in some])


def _numbers(lines: Sequence[str]) -> tuple[str, str]:
    readers, tweets = zip(*map(str.split, lines), strict=True) if lines else ((), ())
    return numbers(readers), numbers(tweets)


def read_feed(reader_id: int, count: int, before: int | None = None) -> list[int]:
    """Return the ids of the last tweets of a feed, the newest first.

    Args:
        reader_id: the id of the user whose feed it is.
        count: the largest number of tweets.
        before: only tweets with a lower id are returned; None for all.

    Raises:
        UnknownUser: no user has the id of the reader.

    """
    last = LAST if before is None else before - 1
    found = [row[0] for row in rows(READ, reader_id, last, count)]
    if not found:
        login_of(reader_id)
    return found
