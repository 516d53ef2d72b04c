"""The store: the project's database, with the outbox and the inbox.

The effects of handlers are committed to this database. The outbox is the table of the messages that
are still to be published. The inbox is the table of the ids of handled messages.
"""

from feedbus.store.no_store import NoStore, refusing_autocommit
from feedbus.store.protocol import Inbox, Outbox, OutboxRow, Store
from feedbus.store.store_of_topology import (
    check_is_store,
    load_driver,
    open_prepared,
    open_store,
    ping,
)

__all__ = [
    "Inbox",
    "NoStore",
    "Outbox",
    "OutboxRow",
    "Store",
    "check_is_store",
    "load_driver",
    "open_prepared",
    "open_store",
    "ping",
    "refusing_autocommit",
]
