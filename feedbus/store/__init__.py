"""The store: the project's database, with the outbox and the inbox.

Handlers commit their effects to it. The outbox has the messages that are still to be published. The
inbox has the ids of the messages that were handled.
"""

from feedbus.store.no_store import NoStore
from feedbus.store.protocol import Inbox, Outbox, OutboxRow, Store
from feedbus.store.store_of_topology import load_driver, open_prepared, open_store, ping

__all__ = [
    "Inbox",
    "NoStore",
    "Outbox",
    "OutboxRow",
    "Store",
    "load_driver",
    "open_prepared",
    "open_store",
    "ping",
]
