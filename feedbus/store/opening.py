"""Open the store that a topology names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from feedbus.store.protocol import Store
from feedbus.topology import Topology


def open_store(
    topology: Topology,
    *,
    application_name: str = "feedbus",
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Store:
    """Return the store of a topology; it connects on first use.

    Args:
        topology: of the system.
        application_name: how a server lists these connections.
        waiting: a context manager around every wait for a lock of the whole store.

    Raises:
        UsageError: the store cannot be opened as the topology says.

    """
    from feedbus.store.peewee import PeeweeStore, bind

    return bind(PeeweeStore(topology.store_url, application_name=application_name, waiting=waiting))


def load_driver(topology: Topology) -> None:
    """Import what open_store() will need, and leave the store alone.

    Raises:
        UsageError: as open_store() does.

    """
    from feedbus.store.peewee.databases import make_database

    make_database(topology.store_url, "")
