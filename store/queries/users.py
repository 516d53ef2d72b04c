"""Users, and which users follow them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.store.peewee import on_postgres, transaction
from store.moments import now_us
from store.queries.sql import first, listed, numbers, rows, run

CHUNK, AT_ONCE = 10_000, 20_000
FEW = 1_000  # followers; those of many authors who have no more are asked for at once
PHONE_BASE = 79_000_000_000  # made-up phones are this and the follower's number: eleven digits

NUMBERED = """
    WITH RECURSIVE numbered (i) AS (
        SELECT CAST(? AS bigint) UNION ALL SELECT i + 1 FROM numbered WHERE i + 1 < ?
    )
"""
ADD_USERS = f"""
    INSERT INTO users (login, email, phone, created_at)
    {NUMBERED}
    SELECT
        CAST(? AS text) || '_' || CAST(i AS text),
        CASE WHEN i & 1 = 0 THEN CAST(? AS text) || '_' || CAST(i AS text) || '@example.com' END,
        CASE WHEN i & 1 = 1 THEN CAST({PHONE_BASE} + i AS text) END,
        ?
    FROM numbered WHERE true
    ON CONFLICT DO NOTHING
"""  # noqa: S608 -- of constants
ADD_EDGES = f"""
    INSERT INTO follower (author_id, follower_id)
    {NUMBERED}
    SELECT CAST(? AS bigint), users.id
    FROM numbered JOIN users ON users.login = CAST(? AS text) || '_' || CAST(i AS text)
    WHERE users.id <> ?
    ON CONFLICT DO NOTHING
"""  # noqa: S608 -- of constants


# How a user can be notified, as words: "", "email", "phone" or "email phone".
CHANNELS = """
    CASE
        WHEN email IS NULL THEN CASE WHEN phone IS NULL THEN '' ELSE 'phone' END
        WHEN phone IS NULL THEN 'email'
        ELSE 'email phone'
    END
"""
# Users lie in the order of their ids, as an author's followers do: both are gone through once.
FOLLOWERS = f"""
    SELECT channels, $LIST(follower_id) FROM (
        SELECT follower_id, {CHANNELS} AS channels
        FROM follower JOIN users ON users.id = follower_id
        WHERE author_id = ? AND follower_id > ? AND users.id > ?
        ORDER BY follower_id LIMIT ?
    ) AS chunk
    GROUP BY channels
"""  # noqa: S608 -- of constants
# Because of OFFSET 0, PostgreSQL looks up the users one by one. If some authors have very many
# followers, it would otherwise choose a merge join, which reads all users up to the last follower.
FOLLOWERS_OF_EACH = f"""
    SELECT given.value, channels, $LIST(follower_id)
    FROM $NUMBERS CROSS JOIN LATERAL (
        SELECT follower_id FROM follower
        WHERE author_id = given.value ORDER BY follower_id LIMIT ?
    ) AS chunk CROSS JOIN LATERAL (
        SELECT {CHANNELS} AS channels FROM users WHERE id = follower_id OFFSET 0
    ) AS follower_user
    GROUP BY given.value, channels
"""  # noqa: S608 -- of constants

Audience = dict[str, list[int]]  # users by how they can be notified


class LoginTaken(FeedbusError):  # noqa: N818 -- what is the case
    """A user with this login exists already."""


class UnknownUser(FeedbusError):  # noqa: N818 -- what is the case
    """No user has this id."""

    def __init__(self, user_id: int) -> None:
        """Keep the id."""
        self.user_id = user_id
        super().__init__(f"no user has the id {user_id}")


def create_user(login: str, email: str | None = None, phone: str | None = None) -> int:
    """Create a user and return the id.

    Args:
        login: the login, in normalization form C.
        email: the e-mail address; None if the user has none.
        phone: the phone number; None if the user has none.

    Raises:
        LoginTaken: a user with this login exists already.

    """
    with transaction():
        found = first(
            "INSERT INTO users (login, email, phone, created_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO NOTHING RETURNING id",
            login,
            email,
            phone,
            now_us(),
        )
    if found is None:
        msg = f"the login '{login}' is taken"
        raise LoginTaken(msg)
    return int(found[0])


def login_of(user_id: int) -> str:
    """Return the login of a user.

    Raises:
        UnknownUser: no user has this id.

    """
    found = first("SELECT login FROM users WHERE id = ?", user_id)
    if found is None:
        raise UnknownUser(user_id)
    return str(found[0])


def add_followers(author_id: int, follower_login: str, count: int, start: int = 0) -> int:
    """Let users FOLLOWERLOGIN_0, FOLLOWERLOGIN_1, … follow an author; return how many are new.

    Users that are missing are created: those of an even number with an e-mail address, the others
    with a phone. A repeated call changes nothing.

    Args:
        author_id: the id of the author. If one of the logins is the author's, it is left out.
        follower_login: the beginning of the followers' logins.
        count: the number of followers.
        start: the number of the first follower, for work that is done in parts.

    Raises:
        UnknownUser: there is no such author.

    """
    login_of(author_id)
    added, end = 0, start + count
    for low in range(start, end, CHUNK):
        high = min(low + CHUNK, end)
        with transaction():
            run(ADD_USERS, low, high, follower_login, follower_login, now_us())
            edges = run(ADD_EDGES, low, high, author_id, follower_login, author_id)
            added += edges.rowcount
    if added >= CHUNK:
        # Else followers are read by a plan for the few that there were, until the next autovacuum.
        with transaction():
            run("ANALYZE users")
            run("ANALYZE follower")
    return added


def followers_of(author_ids: Iterable[int], most: int) -> dict[int, Audience]:
    """Return the followers of each of many authors, up to a limit.

    Args:
        author_ids: the ids of the authors.
        most: the largest number of followers of each author: those with the lowest ids.

    Returns:
        Maps each author to the ids of the followers by how they can be notified: "", "email",
        "phone" or "email phone".

    """
    if not on_postgres():
        return {author: next(stream_followers(author, most), {}) for author in author_ids}
    groups: dict[int, list[Sequence[Any]]] = {author: [] for author in author_ids}
    for author, *group in rows(FOLLOWERS_OF_EACH, numbers(groups), most):
        groups[author].append(group)
    return {author: _audience(each) for author, each in groups.items()}


def stream_followers(author_id: int, chunk: int = CHUNK) -> Iterator[Audience]:
    """Yield an author's followers in the order of their ids, in chunks of a given size.

    Each chunk starts where the last one ended, so only one chunk is in memory.

    Args:
        author_id: the id of the author.
        chunk: the number of followers in a chunk.

    Yields:
        The ids of the followers by how they can be notified: "", "email", "phone" or "email phone".

    """
    last, count = 0, chunk
    while count == chunk:
        audience = _audience(rows(FOLLOWERS, author_id, last, last, chunk))
        count = sum(map(len, audience.values()))
        if audience:
            yield audience
            last = max(map(max, audience.values()))


def audiences(author_ids: Iterable[int]) -> Iterator[tuple[int, Audience]]:
    """Yield the followers of many authors, in parts of at most AT_ONCE followers of one author.

    Args:
        author_ids: the ids of the authors.

    Yields:
        The id of an author, and a part of the followers: their ids by how they can be notified: "",
        "email", "phone" or "email phone".

    """
    many = []
    for author, audience in followers_of(author_ids, FEW + 1).items():
        if sum(map(len, audience.values())) <= FEW:
            yield author, audience
        else:
            many.append(author)
    for author in many:
        for audience in stream_followers(author, AT_ONCE):
            yield author, audience


def _audience(groups: Iterable[Sequence[Any]]) -> Audience:
    """Return followers by how they can be notified; the order is always the same.

    Handlers publish messages in this order, and the ids of the messages depend on it.

    Args:
        groups: pairs of how followers can be notified and the value of a $LIST with their ids.

    """
    found = {channels: listed(followers) for channels, followers in groups}
    return {channels: sorted(found[channels]) for channels in sorted(found)}


def channels_of(user_ids: Iterable[int]) -> dict[int, str]:
    """Return how users can be notified: "", "email", "phone" or "email phone", by their ids.

    Unknown users are left out.

    Args:
        user_ids: the ids of the users.

    """
    asked = numbers(sorted(set(user_ids)))
    found: dict[int, str] = dict(rows(f"SELECT users.id, {CHANNELS} FROM $ROWS(users)", asked))  # noqa: S608 -- of constants
    return found
