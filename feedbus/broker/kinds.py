"""Select the kind of broker by the topology's URL."""

from __future__ import annotations

from feedbus.broker.port import Broker
from feedbus.topology import Topology


def broker_of(topology: Topology) -> Broker:
    """Return the topology's broker; only the modules that this kind needs are imported."""
    url = topology.broker_url
    if url.file is not None:
        from feedbus.broker.embedded import Embedded

        return Embedded(url, url.file)
    if url.memory is not None:
        from feedbus.broker.memory import InMemory

        return InMemory(url, url.memory)
    from feedbus.broker.rabbitmq import RabbitMQ

    return RabbitMQ(url, topology.management_url)
