"""The options of the store."""

from __future__ import annotations

from dataclasses import dataclass

from feedbus.urls import StoreUrl

PEEWEE, SQLALCHEMY = "peewee", "sqlalchemy"  # feedbus's own adapters
# The type of the session of each adapter, as "module:name".
SESSIONS = {PEEWEE: "peewee:Database", SQLALCHEMY: "sqlalchemy.orm:Session"}
# This default is longer than all retries of a message usually take. It is also longer than a dead
# letter usually waits until it is requeued.
KEEP_HANDLED_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The table [store]: the options of the store in which the handlers' effects commit.

    Attributes:
        adapter: "peewee", "sqlalchemy", or the dotted name of a function that creates the store of
            a topology.
        url: the URL of the store; None with the adapter sqlalchemy.
        engine: the dotted name of the project's SQLAlchemy engine; None with other adapters.
        prepare: the dotted name of a function that is called with the topology before any process
            starts; None if there is no such function.
        keep_handled_seconds: how long the rows of the inbox, the ids of handled records, are kept.
    """

    adapter: str = PEEWEE
    url: StoreUrl | None = None
    engine: str | None = None
    prepare: str | None = None
    keep_handled_seconds: float = KEEP_HANDLED_SECONDS

    def __str__(self) -> str:
        """Return the URL of the store, without its password; else its engine or adapter."""
        return str(self.url) if self.url is not None else self.engine or self.adapter
