"""The database that a handler's effects commit to, with the outbox and the inbox."""

from feedbus.store.opening import load_driver, open_store
from feedbus.store.protocol import Entry, Inbox, Outbox, Store
from feedbus.store.relay import publish_entries, relay

__all__ = [
    "Entry",
    "Inbox",
    "Outbox",
    "Store",
    "load_driver",
    "open_store",
    "publish_entries",
    "relay",
]
