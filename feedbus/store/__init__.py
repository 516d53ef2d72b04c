"""The store: the database to which handlers' effects commit, with the outbox and the inbox."""

from feedbus.store.no_store import NoStore
from feedbus.store.protocol import Entry, Inbox, Outbox, Store
from feedbus.store.store_of_topology import load_driver, open_prepared, open_store, ping

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
