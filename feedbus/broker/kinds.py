"""Select the kind of broker by the topology's URL."""

from __future__ import annotations

from feedbus.broker.interface import Broker
from feedbus.errors import UsageError
from feedbus.topology import Topology


def select_broker(topology: Topology) -> Broker:
    """Return the topology's broker, by the scheme of its URL; nothing is connected.

    Only the modules that this kind of broker needs are imported.

    Raises:
        UsageError: the URL is in an environment variable that is not set.
    """
    url = topology.broker_url
    if not url.written:
        msg = (
            "[broker] url: expected a URL, got an environment variable that is not set;"
            " `feedbus check` names the variable"
        )
        raise UsageError(msg)
    if url.file is not None:
        from feedbus.broker.embedded import EmbeddedBroker

        return EmbeddedBroker(url, url.file)
    if url.memory is not None:
        from feedbus.broker.in_memory import InMemoryBroker

        return InMemoryBroker(url, url.memory)
    from feedbus.broker.rabbitmq import RabbitMQ

    return RabbitMQ(url, topology.management_url)
