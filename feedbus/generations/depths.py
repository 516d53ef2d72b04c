"""How many messages wait for each consumer, in the queue that is its own now."""

from __future__ import annotations

from kombu.connection import Connection

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.generations import ledger
from feedbus.topology import Topology


def depths_of(connection: Connection, topology: Topology) -> dict[str, tuple[int, int]]:
    """Return (messages ready, dead letters) for each consumer by name.

    A queue that is not declared yet counts as empty; shards share their dead letters.
    """
    names = Names(topology)
    current = {name: state.current for name, state in ledger.states(connection, topology).items()}
    found: dict[str, tuple[int, int]] = {}
    for consumer in topology.consumers.values():
        generation = current.get(consumer.queue.exchange)
        queue = names.member(generation, consumer.name) if generation else names.queue(consumer)
        found[consumer.name] = (
            broker.count(connection, queue) or 0,
            broker.count(connection, names.dead(consumer.queue)) or 0,
        )
    return found
