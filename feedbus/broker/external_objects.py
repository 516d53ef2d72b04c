"""Check that external exchanges and queues exist on the broker.

Another system declares them. feedbus uses them, and never declares, changes or deletes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from kombu.connection import Connection

from feedbus.broker import lookups
from feedbus.broker.inventory import Inventory
from feedbus.errors import UsageError
from feedbus.topology import Exchange, Queue, Topology

REMEDY = (
    "another system declares it, and feedbus never does: start that system, or correct the name in"
    " the topology"
)


def check_on_broker(connection: Connection, topology: Topology) -> None:
    """Check by passive declarations that every external exchange and queue exists.

    `feedbus up`, and a process that finds no objects of the project on the broker, call it before
    they declare the project's own objects.

    Raises:
        UsageError: external objects are missing; the error names each of them.
        Outage: the cluster node of an external queue is down.
    """
    exchanges = partial(lookups.exchange_exists, connection)
    queues = partial(lookups.queue_exists, connection)
    _refuse([*_missing(topology, "exchange", exchanges), *_missing(topology, "queue", queues)])


def check_seen(topology: Topology, seen: Inventory) -> None:
    """Check in an inventory that external objects exist, and that exchanges have the right types.

    `feedbus plan` and `feedbus apply` call it.

    Args:
        topology: the topology that declares the objects as external.
        seen: the objects that the broker has.

    Raises:
        UsageError: external objects are missing, or exchanges have another type. The error names
            each of these objects.
    """
    _refuse(
        [
            *_missing(topology, "exchange", lambda name: name in seen.exchanges),
            *_missing(topology, "queue", lambda name: name in seen.queues),
            *_of_another_type(topology, seen),
        ]
    )


def missing_queue(queue: Queue) -> str:
    """Return the error text for an external queue of the topology that the broker does not have."""
    return _missing_text("queue", queue)


def _missing(topology: Topology, kind: str, exists: Callable[[str], bool]) -> Iterator[str]:
    entries = topology.exchanges if kind == "exchange" else topology.queues
    for entry in entries.values():
        if entry.external_name and not exists(entry.external_name):
            yield _missing_text(kind, entry)


def _missing_text(kind: str, entry: Exchange | Queue) -> str:
    return (
        f"[{kind}s.{entry.name}]: the broker has no {kind} '{entry.external_name}', which is"
        f" external; {REMEDY}"
    )


def _of_another_type(topology: Topology, seen: Inventory) -> Iterator[str]:
    for exchange in topology.exchanges.values():
        seen_exchange = seen.exchanges.get(exchange.external_name)
        if (
            exchange.external_name
            and seen_exchange is not None
            and seen_exchange.type != exchange.type
        ):
            yield (
                f"[exchanges.{exchange.name}]: the external exchange '{exchange.external_name}' is"
                f" of type {seen_exchange.type} on the broker, not {exchange.type}; correct type in"
                " the topology"
            )


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise UsageError("\n".join(reasons))
