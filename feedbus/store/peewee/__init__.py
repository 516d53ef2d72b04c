"""The store on SQLite or PostgreSQL by peewee; the models of the project can use it, too."""

from feedbus.store.peewee.store import (
    PeeweeStore,
    bind,
    bound,
    close_bound,
    database,
    on_postgres,
    open_or_share,
    transaction,
)
from feedbus.store.peewee.user_query import reading

__all__ = [
    "PeeweeStore",
    "bind",
    "bound",
    "close_bound",
    "database",
    "on_postgres",
    "open_or_share",
    "reading",
    "transaction",
]
