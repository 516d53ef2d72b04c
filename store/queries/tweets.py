"""Tweets that were posted here, and tweets that other systems publish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.store.peewee import on_postgres, transaction
from store.moments import now_us, to_text, to_us
from store.queries.sql import first, numbers, rows, run, run_each
from store.queries.users import UnknownUser, login_of

# Our own ids stay below this, exact in every JSON reader, whatever ids other systems' tweets have.
OWN_IDS_END = 2**53

# SQLite counts on from its highest id, which may be another system's: count from our own, and give
# the id of a deleted tweet to no other, since feeds may still name it.
NUMBER = f"""
    SELECT max(
        (SELECT coalesce(max(id), 0) FROM tweet WHERE id < {OWN_IDS_END}),
        (SELECT coalesce(max(id), 0) FROM deleted_tweet WHERE id < {OWN_IDS_END})
    ) + 1
"""  # noqa: S608 -- of constants
ADD_SQLITE = f"""
    INSERT INTO tweet (id, author_id, text, created_at, request_key) VALUES (({NUMBER}), ?, ?, ?, ?)
    ON CONFLICT DO NOTHING RETURNING id
"""  # noqa: S608 -- of constants
ADD_POSTGRES = """
    WITH author AS (SELECT id, login FROM users WHERE id = ?), made AS (
        INSERT INTO tweet (author_id, text, created_at, request_key)
        SELECT author.id, ?, ?, ? FROM author
        ON CONFLICT DO NOTHING RETURNING id
    )
    SELECT author.login, made.id FROM author LEFT JOIN made ON true
"""
ENSURE_POSTGRES = """
    INSERT INTO tweet (id, author_id, text, created_at)
    SELECT posted.id, users.id, posted.text, posted.created_at
    FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[]), CAST(? AS text[]), CAST(? AS bigint[]))
        AS posted (id, author_id, text, created_at)
    JOIN users ON users.id = posted.author_id
    WHERE NOT EXISTS (SELECT 1 FROM deleted_tweet WHERE deleted_tweet.id = posted.id)
    ORDER BY posted.id
    ON CONFLICT DO NOTHING
"""
ENSURE_SQLITE = """
    INSERT INTO tweet (id, author_id, text, created_at)
    SELECT ?1, users.id, ?3, ?4 FROM users WHERE users.id = ?2
    AND NOT EXISTS (SELECT 1 FROM deleted_tweet WHERE deleted_tweet.id = ?1)
    ON CONFLICT DO NOTHING
"""
SKIP_TAKEN = (
    "SELECT setval(pg_get_serial_sequence('tweet', 'id'),"  # noqa: S608 -- of constants
    f" (SELECT max(id) FROM tweet WHERE id < {OWN_IDS_END}))"
)


class KeyReused(FeedbusError):  # noqa: N818 -- what is the case
    """A request has the key of an earlier request, but another text."""


@dataclass(frozen=True, slots=True)
class Posted:
    """The result of create_tweet().

    Attributes:
        tweet: the tweet in the form of a message of publish_tweet.
        repeated: whether an earlier request with the same key has stored it.

    """

    tweet: dict[str, Any]
    repeated: bool


def create_tweet(author_id: int, text: str, request_key: str | None = None) -> Posted:
    """Store a tweet, or find the one that a request of this author and key has stored.

    Args:
        author_id: the id of the author.
        text: 1 to 140 characters.
        request_key: the key of the request; a repetition of the request has the same key. None if
            the request has no key; then the tweet is always stored.

    Raises:
        UnknownUser: there is no such author.
        KeyReused: the earlier request of this key had another text.

    """
    with transaction():
        moment = now_us()
        while True:
            author, made = _add(author_id, text, moment, request_key)
            if made is not None:
                break
            # Either the key is known, or the id that was next belongs to another system's tweet.
            earlier = _of_request(author_id, author, request_key)
            if earlier is None:
                run(SKIP_TAKEN)
            elif earlier["text"] != text:
                msg = f"an earlier request with the key '{request_key}' had another text"
                raise KeyReused(msg)
            else:
                return Posted(earlier, repeated=True)
    return Posted(_wire(made, author_id, author, text, moment), repeated=False)


def _add(
    author_id: int, text: str, moment_us: int, request_key: str | None
) -> tuple[str, int | None]:
    """Store a tweet, unless the author already has a tweet with the same request key.

    Args:
        author_id: the id of the author.
        text: the text of the tweet.
        moment_us: the time of the tweet, in microseconds since 1970 (UTC).
        request_key: the key of the request; None if the request has no key.

    Returns:
        The author's login, and the id of the new tweet. The id is None if the tweet was not stored:
        because of the request key, or because another system's tweet already has the next id.

    Raises:
        UnknownUser: there is no such author.

    """
    if on_postgres():
        found = first(ADD_POSTGRES, author_id, text, moment_us, request_key)
        if found is None:
            raise UnknownUser(author_id)
        return found[0], found[1]
    author = login_of(author_id)
    made = first(ADD_SQLITE, author_id, text, moment_us, request_key)
    return author, made[0] if made else None


def _of_request(author_id: int, author: str, request_key: str | None) -> dict[str, Any] | None:
    if request_key is None:
        return None
    found = first(
        "SELECT id, text, created_at FROM tweet WHERE author_id = ? AND request_key = ?",
        author_id,
        request_key,
    )
    return _wire(found[0], author_id, author, found[1], found[2]) if found else None


def _wire(
    tweet_id: int, author_id: int, author: str, text: str, created_at_us: int
) -> dict[str, Any]:
    return {
        "id": tweet_id,
        "author": author,
        "authorId": author_id,
        "text": text,
        "createdAt": to_text(created_at_us),
    }


def ensure_tweets(tweets: Iterable[Mapping[str, Any]]) -> set[int]:
    """Store the tweets that do not exist yet; return the ids of all that exist afterwards.

    Tweets of an unknown author, and tweets that were deleted, are not stored.

    Args:
        tweets: the fields of each tweet, as the schema PublishTweet loads them.

    """
    asked = {tweet["id"]: tweet for tweet in tweets}
    there = stored_tweets(asked)
    missing = [tweet for tweet in asked.values() if tweet["id"] not in there]
    if not missing:
        return there
    values = [(t["id"], t["author_id"], t["text"], to_us(t["created_at"])) for t in missing]
    if on_postgres():
        run(ENSURE_POSTGRES, *map(list, zip(*values, strict=True)))
    else:
        run_each(ENSURE_SQLITE, values)
    return stored_tweets(asked)


def stored_tweets(tweet_ids: Iterable[int]) -> set[int]:
    """Return which of some tweets exist, by their ids."""
    return {row[0] for row in rows("SELECT tweet.id FROM $ROWS(tweet)", numbers(tweet_ids))}


def read_tweets(tweet_ids: Iterable[int]) -> list[dict[str, Any]]:
    """Return the tweets with some ids that exist, in any order.

    Each tweet has the keys "id", "author" (the login), "text" and "createdAt" (ISO 8601).
    """
    found = rows(
        "SELECT tweet.id, users.login, tweet.text, tweet.created_at"
        " FROM $ROWS(tweet) JOIN users ON users.id = tweet.author_id",
        numbers(tweet_ids),
    )
    return [_shown(*row) for row in found]


def list_tweets(page: int, per_page: int) -> list[dict[str, Any]]:
    """Return a page of all tweets, the newest first.

    Each tweet has the keys "id", "author" (the login), "text" and "createdAt" (ISO 8601).

    Args:
        page: the number of the page, from 0.
        per_page: the number of tweets on a page.

    """
    newest = "SELECT id FROM tweet ORDER BY id DESC LIMIT ? OFFSET ?"
    return _listed(newest, per_page, page * per_page)


def list_tweets_before(tweet_id: int, count: int) -> list[dict[str, Any]]:
    """Return the latest tweets before a given tweet, the newest first.

    Each tweet has the keys "id", "author" (the login), "text" and "createdAt" (ISO 8601).

    Args:
        tweet_id: the id of the given tweet, which may have been deleted.
        count: the largest number of tweets.

    """
    return _listed("SELECT id FROM tweet WHERE id < ? ORDER BY id DESC LIMIT ?", tweet_id, count)


def _listed(ids: str, *values: int) -> list[dict[str, Any]]:
    found = rows(
        f"SELECT tweet.id, users.login, tweet.text, tweet.created_at FROM ({ids}) AS shown"  # noqa: S608 -- of constants
        " JOIN tweet ON tweet.id = shown.id JOIN users ON users.id = tweet.author_id"
        " ORDER BY tweet.id DESC",
        *values,
    )
    return [_shown(*row) for row in found]


def _shown(tweet_id: int, author: str, text: str, created_at_us: int) -> dict[str, Any]:
    """Return a tweet as the API shows it."""
    return {"id": tweet_id, "author": author, "text": text, "createdAt": to_text(created_at_us)}
