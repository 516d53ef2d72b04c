"""The choice of the broker's kind by the topology's URL, made only here."""

from __future__ import annotations

from feedbus.broker.port import Broker
from feedbus.topology import Topology


def broker_of(topology: Topology) -> Broker:
    """Return the topology's broker; only what its kind needs is imported."""
    url = topology.broker_url
    if url.file is not None:
        from feedbus.broker.embedded import Embedded

        return Embedded(url, url.file)
    if url.memory is not None:
        from feedbus.broker.memory import InMemory

        return InMemory(url, url.memory)
    from feedbus.broker.rabbitmq import RabbitMQ

    return RabbitMQ(url, topology.management_url)
