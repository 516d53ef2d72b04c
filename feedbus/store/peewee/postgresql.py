"""PostgreSQL for the peewee store, by psycopg2: settings, and lost connections."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import peewee

from feedbus.process.fork_safety import close_in_forks
from feedbus.store.peewee.lazy_transactions import SAVEPOINT, Database
from feedbus.store.sql import IDLE, refuse_failed_transaction
from feedbus.store.stale_server_sessions import StaleServerSessions, session_of
from feedbus.urls import StoreUrl

POSTGRES_SETTINGS = {
    "statement_timeout": "30s",
    "random_page_cost": "1.1",  # for SSDs; without it, a query for keys may read the whole table
    "jit": "off",  # the compilation of a query would take longer than any query of feedbus
    # With these settings, the server ends the sessions of a host that is lost, and releases their
    # locks.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}
SETTING_GIVEN = re.compile(r"(?:-c\s*|--)(\w+)\s*=")  # a setting in libpq's options


class PostgresDatabase(Database, peewee.PostgresqlDatabase):
    """PostgreSQL by psycopg2; BEGIN is sent with the first statement of a transaction.

    If the connection is lost at this statement, the transaction begins on a new connection.

    Args:
        database: the name of the database. With "postgresql://", libpq selects the database.
        settings: names and values of settings of the server, which each new connection sets.
        options: further options of the base class, such as `where`, and of libpq, such as `host`.
    """

    def __init__(self, database: str, *, settings: Mapping[str, str], **options: Any) -> None:
        """Create the object without a connection.

        Args:
            database: the name of the database. With "postgresql://", libpq selects the database.
            settings: parameters of the server, which each new connection sets by SET. Connection
                poolers would refuse them as parameters of the connection.
            options: the other arguments of Database, and parameters of libpq.

        """
        self._settings = "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())
        self._stale_sessions = StaleServerSessions()
        super().__init__(database, **options)

    def _connect(self) -> Any:
        connection = super()._connect()
        close_in_forks(connection)
        if self._settings:
            with connection.cursor() as cursor:
                cursor.execute(self._settings)

        def query(sql: str) -> Sequence[Any]:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                rows: Sequence[Any] = cursor.fetchall()
                return rows

        connection.server_session = session_of(query, connection.info.backend_pid)
        self._stale_sessions.end(query)
        return connection

    def discard(self) -> None:
        """Close this thread's connection in any state.

        If the server keeps the session of the closed connection, the next connection ends it.
        """
        opened = self._state.conn  # type: ignore[attr-defined]  # internal, not in the stubs
        super().discard()
        if opened is not None and opened.closed:
            self._stale_sessions.add(opened.server_session)

    def begin(self, isolation_level: Any = None) -> None:
        """Begin a transaction in peewee only; the database begins it with the first statement.

        Args:
            isolation_level: the isolation level of the transaction. With one, the transaction
                begins in the database immediately; None for the server's default level.
        """
        if isolation_level:
            peewee.PostgresqlDatabase.begin(self, isolation_level)
        else:
            super().begin()

    def lost(self) -> bool:
        """Whether this thread's connection is closed, by this process or by the server."""
        return super().lost() or bool(self.connection().closed)

    def _begun(self) -> bool:
        return not self.lost() and self.connection().info.transaction_status != IDLE

    def _check_open(self) -> None:
        opened = self._state.conn  # type: ignore[attr-defined]  # internal, not in the stubs
        if opened is not None:
            refuse_failed_transaction(opened.info.transaction_status, SAVEPOINT)

    def _begin_and_execute(self, sql: str, params: Any, **options: Any) -> Any:
        sql = f"BEGIN; {sql}"
        if self.is_closed():
            self._connect_within()
        try:
            return self._execute(sql, params, **options)
        except (peewee.OperationalError, peewee.InterfaceError):
            if not self.lost():
                raise
        # The transaction had no statement yet. So no effect is lost by beginning it again.
        self._connect_within()
        return self._execute(sql, params, **options)


def make_postgresql(url: StoreUrl, application_name: str) -> PostgresDatabase:
    """Return the database of a URL; it is not connected yet.

    Args:
        url: the URL; parameters of libpq in its query string override the defaults of feedbus.
        application_name: the name of the connections in PostgreSQL's list.
    """
    from feedbus.store.peewee.deadlines import Connection  # only where psycopg2 is installed

    defaults = {
        "connect_timeout": "5",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "30000",
        "application_name": application_name,
    }
    parameters = dict(url.parameters)
    own_settings = SETTING_GIVEN.findall(parameters.get("options", ""))
    settings = {
        name: value for name, value in POSTGRES_SETTINGS.items() if name not in own_settings
    }
    # peewee requires a name of the database. For a URL without a name, it gets an empty URL: then
    # libpq selects the database by the service or by the user's name.
    name = parameters.pop("dbname", "postgresql://")
    return PostgresDatabase(
        name,
        where=str(url),
        **(defaults | parameters),
        settings=settings,
        connection_factory=Connection,
    )
