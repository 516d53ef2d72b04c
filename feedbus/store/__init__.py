"""The database in which a handler's effects commit, with the outbox and the inbox."""

from feedbus.store.none import NoStore
from feedbus.store.opening import load_driver, open_prepared, open_store, ping
from feedbus.store.protocol import Entry, Inbox, Outbox, Store

__all__ = [
    "Entry",
    "Inbox",
    "NoStore",
    "Outbox",
    "Store",
    "load_driver",
    "open_prepared",
    "open_store",
    "ping",
]
