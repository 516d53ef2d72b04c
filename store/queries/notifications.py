"""Notifications: one for each user and source, also if a message is repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from feedbus.store.peewee import on_postgres
from store.queries.sql import copy, escaped, numbers, rows, run

Group = tuple[str, str, Sequence[int]]


def add_email_notifications(groups: Sequence[Group]) -> set[int]:
    """Store e-mails; return the ids of users who do not exist or have no e-mail address.

    Args:
        groups: for each notification, its source, its text of at most 512 characters, and the ids
            of the users. Each user's address is looked up here. A user who was notified of a source
            is not notified again.

    """
    return _add("email_notification", "address", "email", groups)


def add_sms_notifications(groups: Sequence[Group]) -> set[int]:
    """Store short messages; return the ids of users who do not exist or have no phone.

    Args:
        groups: for each notification, its source, its text of at most 60 characters, and the ids of
            the users. Each user's phone is looked up here. A user who was notified of a source is
            not notified again.

    """
    return _add("sms_notification", "phone", "phone", groups)


def _add(table: str, column: str, channel: str, groups: Sequence[Group]) -> set[int]:
    asked = {user for _, _, users in groups for user in users}
    if on_postgres():
        found = rows(
            f"SELECT users.id, {channel} FROM $ROWS(users) WHERE {channel} IS NOT NULL",  # noqa: S608 -- a column of ours
            numbers(sorted(asked)),
        )
        addresses: dict[int, str] = dict(found)
        _add_addressed(table, column, addresses, groups)
        return asked - addresses.keys()
    added = sum(_add_looking_up(table, column, channel, group) for group in groups)
    if added == sum(len(users) for _, _, users in groups):
        return set()
    found = rows(
        f"SELECT users.id FROM $ROWS(users) WHERE {channel} IS NOT NULL",  # noqa: S608 -- a column of ours
        numbers(sorted(asked)),
    )
    return asked - {row[0] for row in found}


def _add_addressed(
    table: str, column: str, addresses: Mapping[int, str], groups: Sequence[Group]
) -> None:
    """Add notifications to a table of PostgreSQL, in the order of the table's primary key.

    Args:
        table: the name of the table.
        column: the column of the table with the address: "address" or "phone".
        addresses: maps the ids of users to their addresses. Other users get no row.
        groups: the notifications, as for add_email_notifications().

    """
    notices = [
        (source, text, [user for user in sorted(set(users)) if user in addresses])
        for source, text, users in sorted(groups)
    ]
    pairs = zip(addresses, escaped(addresses.values()), strict=True)
    middles = {user: f"{user}\t{address}" for user, address in pairs}
    sources, texts = escaped(group[0] for group in notices), escaped(group[1] for group in notices)
    lines = [
        _lines(f"{source}\t", [middles[user] for user in users], f"\t{text}\n")
        for source, text, (_, _, users) in zip(sources, texts, notices, strict=True)
    ]
    copy(
        f"{table} (source, user_id, {column}, text)",
        "".join(lines),
        lambda: _add_missing(table, column, addresses, notices),
    )


def _lines(start: str, middles: Sequence[str], end: str) -> str:
    return f"{start}{f'{end}{start}'.join(middles)}{end}" if middles else ""


def _add_missing(
    table: str, column: str, addresses: Mapping[int, str], notices: Sequence[Group]
) -> None:
    """Add the notifications that a table of PostgreSQL does not have yet, with one statement.

    The parameters of the statement contain each text only once, and for each user the number of the
    group.

    Args:
        table: the name of the table.
        column: the column of the table with the address: "address" or "phone".
        addresses: maps the id of each user in the groups to the address.
        notices: the notifications, as for add_email_notifications().

    """
    users = [user for group in notices for user in group[2]]
    run(
        f"""
        INSERT INTO {table} (source, user_id, {column}, text)
        SELECT notices.source, given.user_id, given.address, notices.text
        FROM unnest(CAST(? AS bigint[]), CAST(? AS text[]), CAST(? AS bigint[]))
            AS given (user_id, address, place)
        JOIN unnest(CAST(? AS text[]), CAST(? AS text[])) WITH ORDINALITY
            AS notices (source, text, place) ON notices.place = given.place
        ORDER BY notices.source, given.user_id
        ON CONFLICT DO NOTHING
        """,  # noqa: S608 -- names of ours
        numbers(users),
        [addresses[user] for user in users],
        numbers(place for place, group in enumerate(notices, 1) for _ in group[2]),
        [group[0] for group in notices],
        [group[1] for group in notices],
    )


def _add_looking_up(table: str, column: str, channel: str, group: Group) -> int:
    """Add the notifications of a group to a table of SQLite; return the number of added rows.

    The statement reads the address of each user, which costs little on SQLite. A user without an
    address gets no row, nor does a user who has got the notification before.

    Args:
        table: the name of the table.
        column: the column of the table that gets the address: "address" or "phone".
        channel: the column of the table `users` with the address: "email" or "phone".
        group: the notification, as for add_email_notifications().

    """
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
