"""The store as the framework sees it: transactions, outages, the outbox and the inbox."""

from feedbus.outbox.connection import (
    close_store,
    database,
    load_driver,
    on_postgres,
    open_store,
    ping,
    ready,
    transaction,
)
from feedbus.outbox.exclusion import exclusive
from feedbus.outbox.outages import outage
from feedbus.outbox.reading import reading
from feedbus.outbox.relay import publish_entries, relay
from feedbus.outbox.tables import (
    Entry,
    Inbox,
    Outbox,
    create_tables,
    drop_tables,
    forget,
    pending,
    put,
    put_many,
    remove,
    seen,
    unseen,
)

__all__ = [
    "Entry",
    "Inbox",
    "Outbox",
    "close_store",
    "create_tables",
    "database",
    "drop_tables",
    "exclusive",
    "forget",
    "load_driver",
    "on_postgres",
    "open_store",
    "outage",
    "pending",
    "ping",
    "publish_entries",
    "put",
    "put_many",
    "reading",
    "ready",
    "relay",
    "remove",
    "seen",
    "transaction",
    "unseen",
]
