"""Graphs of users and followers, which are seeded into a store, and tweets for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.scale import Scale
from feedbus.store.peewee import on_postgres, transaction
from store import moments, queries
from store.queries.sql import numbers, rows, run

SEED = 11
POWER = 0.8
FOREIGN_IDS = 2**53  # the API has numbered the tweets below it
SENTENCE = "the ring turns and every key finds its shard while queues hum in the quiet night"
ALL = "all"
LONG, SHORT = "long", "brief"
READERS = 9_000
SMALL_AUTHORS = 20

ADD_USERS = """
    INSERT INTO users (login, email, phone, created_at)
    SELECT CAST(? AS text) || '_' || CAST(value AS text),
        CASE value & 1 WHEN 0 THEN CAST(? AS text) || CAST(value AS text) || '@example.com' END,
        CASE value & 1 WHEN 1 THEN CAST(79000000000 + value AS text) END,
        0
    FROM $NUMBERS WHERE true
"""
ADD_EDGES = """
    INSERT INTO follower (author_id, follower_id) SELECT CAST(? AS bigint), value FROM $NUMBERS
    WHERE true
"""


@dataclass(frozen=True, slots=True)
class Tweet:
    """A tweet for the followers of its author."""

    id: int
    author_id: int
    author: str
    text: str

    def payload(self) -> dict[str, Any]:
        """Return the tweet as a payload of publish_tweet."""
        return {
            "id": self.id,
            "author": self.author,
            "authorId": self.author_id,
            "text": self.text,
            "createdAt": moments.to_text(moments.now_us()),
        }


def seed(graph: str, scale: Scale) -> None:
    """Fill the open store with a graph; ALL means all graphs together."""
    everywhere = list(GRAPHS) if on_postgres() else ["wide", "everyday"]
    chosen = everywhere if graph == ALL else [graph]
    for name in chosen:
        GRAPHS[name](scale)
    if on_postgres():
        run("VACUUM ANALYZE")
    else:
        run("ANALYZE")


def tweets(graph: str, count: int) -> list[Tweet]:
    """Create tweets of a graph's authors; only their ids differ between calls."""
    return make_tweets(authors(graph), count)


def authors(graph: str) -> Sequence[tuple[int, str]]:
    """Return the id and login of each author in a graph, in order."""
    return [
        (int(number), str(login))
        for number, login in rows(
            "SELECT id, login FROM users WHERE login = ? OR login LIKE ? ORDER BY id",
            f"{graph}-author",
            f"{graph}-both\\_%" if on_postgres() else f"{graph}-both_%",
        )
    ]


def make_tweets(chosen: Sequence[tuple[int, str]], count: int) -> list[Tweet]:
    """Make tweets of some authors, with ids that the open store does not have yet."""
    dice = random.Random(SEED)  # noqa: S311 -- a load, the same each time
    (last,) = rows("SELECT coalesce(max(id), 0) FROM tweet")[0]
    first = max(int(last), FOREIGN_IDS) + 1
    made = []
    for number in range(first, first + count):
        author_id, author = dice.choice(chosen)
        made.append(Tweet(number, author_id, author, text(dice)))
    return made


def text(dice: random.Random) -> str:
    """Return the text of a tweet; some texts are too long for a short message."""
    return " ".join(dice.choices(SENTENCE.split(), k=dice.randint(5, 20)))


def _fan(graph: str, followers: int) -> None:
    author = queries.create_user(f"{graph}-author", f"{graph}@example.com")
    queries.add_followers(author, f"{graph}-fan", followers)


def _everyday(scale: Scale) -> None:
    """All users tweet and follow; user n has followers in proportion to n ** -POWER."""
    count = scale.everyday_users
    dice = random.Random(SEED)  # noqa: S311 -- a graph, the same each time
    weights = [rank**-POWER for rank in range(1, count + 1)]
    per_weight = count * scale.everyday_mean / sum(weights)
    with transaction():
        run(ADD_USERS, "everyday-both", "everyday", numbers(range(count)))
        ids = [number for number, _ in authors("everyday")]
        for author, weight in zip(ids, weights, strict=True):
            found = dice.sample(ids, min(count - 1, max(1, round(weight * per_weight))) + 1)
            others = [reader for reader in found if reader != author]
            run(ADD_EDGES, author, numbers(others[: max(1, round(weight * per_weight))]))


def _fair(scale: Scale) -> None:
    """An author with many followers, and authors with one each."""
    _fan("fair", scale.fair_followers)
    with transaction():
        run(ADD_USERS, "fair-small-both", "fair-small", numbers(range(SMALL_AUTHORS)))
        run(ADD_USERS, "fair-reader", "fair-reader", numbers(range(SMALL_AUTHORS)))
        readers = rows("SELECT id FROM users WHERE login LIKE 'fair-reader%%' ORDER BY id")
        for (author, _), (reader,) in zip(authors("fair-small"), readers, strict=True):
            run(ADD_EDGES, author, numbers([reader]))


def _feeds(scale: Scale) -> None:
    """One feed of many entries, one of twenty, and others that fill the table."""
    author = queries.create_user("feeds-author", "feeds@example.com")
    long, short = queries.create_user(LONG, f"{LONG}@example.com"), queries.create_user(SHORT)
    rest = scale.all_feeds - scale.long_feed
    each = max(20, rest // READERS)
    with transaction():
        run(ADD_USERS, "reader", "reader", numbers(range(rest // each)))
        run(
            "INSERT INTO tweet (id, author_id, text, created_at) SELECT i, ?, 'tweet number '"
            " || i || ' of an author who has a lot to say', i FROM generate_series(1, ?) AS t (i)",
            author,
            scale.long_feed,
        )
        run("SELECT setval(pg_get_serial_sequence('tweet', 'id'), ?)", scale.long_feed)
        fill = (
            "INSERT INTO feed (reader_id, tweet_id)"
            " SELECT users.id, i FROM users CROSS JOIN generate_series(1, ?) AS t (i)"
        )
        run(f"{fill} WHERE users.id = ?", scale.long_feed, long)
        run(f"{fill} WHERE users.id = ?", 20, short)
        run(f"{fill} WHERE users.login LIKE 'reader_%%'", each)


GRAPHS: dict[str, Callable[[Scale], None]] = {
    "wide": lambda scale: _fan("wide", scale.wide_followers),
    "everyday": _everyday,
    "million": lambda scale: _fan("million", scale.million_followers),
    "feeds": _feeds,
    "fair": _fair,
}
