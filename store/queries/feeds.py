"""Feeds: rows of reader and tweet, so that a long feed costs no more than a short one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from feedbus.outbox import on_postgres
from store.queries.sql import copy, numbers, rows, run, run_each
from store.queries.tweets import shown
from store.queries.users import login_of

# The limit is inside, so that no plan can join a whole feed to its tweets first.
READ = """
    SELECT tweet.id, users.login, tweet.text, tweet.created_at
    FROM (
        SELECT tweet_id FROM feed WHERE reader_id = ? ORDER BY tweet_id DESC LIMIT ?
    ) AS latest
    JOIN tweet ON tweet.id = latest.tweet_id
    JOIN users ON users.id = tweet.author_id
"""
ADD_TWEET_SQLITE = """
    INSERT INTO feed (reader_id, tweet_id) SELECT value, ? FROM $NUMBERS
    WHERE true ON CONFLICT DO NOTHING
"""
ADD_PAIR_SQLITE = "INSERT INTO feed (reader_id, tweet_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
ADD_MISSING_POSTGRES = """
    INSERT INTO feed (reader_id, tweet_id)
    SELECT * FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[])) ON CONFLICT DO NOTHING
"""


def add_feed_entries(groups: Iterable[tuple[int, Sequence[int]]]) -> int:
    """Put tweets into feeds; returns how many entries are new.

    Args:
        groups: (tweet id, ids of the readers), in any order; entries that are there stay.

    """
    # In one order everywhere, so that two processes that write the same entries cannot deadlock,
    # and a reader's entries side by side, so that the index is gone through once.
    if on_postgres():
        ends = ((f"\t{tweet}\n", readers) for tweet, readers in groups)
        lines = sorted([f"{reader}{end}" for end, readers in ends for reader in readers])
        return copy("feed (reader_id, tweet_id)", "".join(lines), lambda: _add_missing(lines))
    pairs = sorted((reader, tweet) for tweet, readers in groups for reader in readers)
    if not pairs:
        return 0
    if len({tweet for _, tweet in pairs}) == 1:
        readers = numbers(reader for reader, _ in pairs)
        return int(run(ADD_TWEET_SQLITE, pairs[0][1], readers).rowcount)
    return run_each(ADD_PAIR_SQLITE, pairs)


def _add_missing(lines: Sequence[str]) -> int:
    readers, tweets = zip(*map(str.split, lines), strict=True)
    return int(run(ADD_MISSING_POSTGRES, numbers(readers), numbers(tweets)).rowcount)


def read_feed(reader_id: int, count: int) -> list[dict[str, Any]]:
    """Return the last count tweets of a feed, the oldest of them first.

    Raises:
        UnknownUser: there is no such reader.

    """
    found = rows(READ, reader_id, count)
    if not found:
        login_of(reader_id)
    # By moment: ids of tweets posted at once, or in another system, may disagree with it.
    ordered = sorted(found, key=lambda row: (row[3], row[0]))
    return [shown(*row) for row in ordered]
