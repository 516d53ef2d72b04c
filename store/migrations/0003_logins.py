"""Convert logins to Unicode's normalization form C, so that each text names only one user."""

from __future__ import annotations

import peewee
from playhouse.migrate import SchemaMigrator

from feedbus.logs import EventLog
from feedbus.store.peewee import on_postgres
from store.logins import normalized

events = EventLog(__name__)

# All that is not ASCII; ASCII is in every normalization form.
POSTGRES = "SELECT id, login FROM users WHERE login ~ '[^[:ascii:]]' ORDER BY id"
SQLITE = "SELECT id, login FROM users WHERE login GLOB '*[^' || char(1) || '-~]*' ORDER BY id"


def up(migrator: SchemaMigrator, db: peewee.Database) -> None:  # noqa: ARG001 -- the runner's call
    """Convert the logins of all users to Unicode's normalization form C.

    The runner of migrations calls the function. If the converted login is already the login of
    another user, the login is not changed, and a warning with the id of the user is logged.

    Args:
        migrator: not used.
        db: the database.

    """
    mark = "%s" if on_postgres() else "?"
    update = (
        f"UPDATE users SET login = {mark} WHERE id = {mark}"  # noqa: S608 -- of constants
        f" AND NOT EXISTS (SELECT 1 FROM users AS other WHERE other.login = {mark})"
    )
    for user, login in db.execute_sql(POSTGRES if on_postgres() else SQLITE).fetchall():
        wanted = normalized(login)
        if wanted != login and not db.execute_sql(update, (wanted, user, wanted)).rowcount:
            events.warning(
                "login_kept",
                "a login was not normalised, because another user already has the normalised form;"
                " give one of the two users another login",
                user=user,
            )


def down(migrator: SchemaMigrator, db: peewee.Database) -> None:
    """Do nothing; the runner of migrations calls the function to revert the migration.

    The logins before the conversion are not known. The earlier version of the application can use
    the converted logins, too.

    Args:
        migrator: not used.
        db: the database.

    """
