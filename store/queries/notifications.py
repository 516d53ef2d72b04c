"""Notifications: one a user and source, whatever is repeated."""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.outbox import on_postgres
from store.queries.sql import numbers, rows, run

Group = tuple[str, str, Sequence[int]]


def add_email_notifications(groups: Sequence[Group]) -> set[int]:
    """Store e-mails; returns the ids of those users who are gone or have no e-mail address.

    Args:
        groups: (source, text of at most 512 characters, ids of the users); each user's address
            is looked up here, and whom a source has told already is not told again.

    """
    return _add("email_notification", "address", "email", groups)


def add_sms_notifications(groups: Sequence[Group]) -> set[int]:
    """Store short messages of at most 60 characters; as add_email_notifications, by phone."""
    return _add("sms_notification", "phone", "phone", groups)


def _add(table: str, column: str, channel: str, groups: Sequence[Group]) -> set[int]:
    asked = {user for _, _, users in groups for user in users}
    if not asked:
        return set()
    if on_postgres() and len(groups) > 1:
        added = _add_groups(table, column, channel, groups)
    else:
        added = sum(_add_one(table, column, channel, group) for group in groups)
    if added == sum(len(users) for _, _, users in groups):
        return set()
    found = rows(
        f"SELECT users.id FROM $ROWS(users) WHERE {channel} IS NOT NULL",  # noqa: S608 -- a column of ours
        numbers(sorted(asked)),
    )
    return asked - {row[0] for row in found}


def _add_groups(table: str, column: str, channel: str, groups: Sequence[Group]) -> int:
    """One statement for all groups: each text travels once, each user by the group's number."""
    users = [user for _, _, users in groups for user in users]
    places = [place for place, group in enumerate(groups, 1) for _ in group[2]]
    added = run(
        f"""
        INSERT INTO {table} (source, user_id, {column}, text)
        SELECT told.source, users.id, users.{channel}, told.text
        FROM unnest(CAST(? AS bigint[]), CAST(? AS bigint[])) AS given (value, place)
        JOIN unnest(CAST(? AS text[]), CAST(? AS text[])) WITH ORDINALITY
            AS told (source, text, place) ON told.place = given.place
        CROSS JOIN LATERAL (SELECT * FROM users WHERE id = given.value OFFSET 0) AS users
        WHERE users.{channel} IS NOT NULL
        ORDER BY told.source, users.id
        ON CONFLICT DO NOTHING
        """,  # noqa: S608 -- names of ours
        numbers(users),
        numbers(places),
        [source for source, _, _ in groups],
        [text for _, text, _ in groups],
    )
    return int(added.rowcount)


def _add_one(table: str, column: str, channel: str, group: Group) -> int:
    source, text, users = group
    added = run(
        f"""
        INSERT INTO {table} (source, user_id, {column}, text)
        SELECT CAST(? AS text), users.id, {channel}, ? FROM $ROWS(users)
        WHERE {channel} IS NOT NULL
        ON CONFLICT DO NOTHING
        """,  # noqa: S608 -- names of ours
        source,
        text,
        numbers(sorted(users)),
    )
    return int(added.rowcount)
