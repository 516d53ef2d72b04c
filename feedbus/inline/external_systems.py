"""External exchanges and queues on a broker in memory, which has no other system."""

from __future__ import annotations

from typing import Any

from feedbus import broker
from feedbus.records.payloads import encode_payload
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import JSON

# The name of an exchange and its queue, which get the messages of an external exchange that match
# no queue of the topology. The queue drops them immediately. Without it, they would be returned as
# unroutable, although a queue of the other system would receive them.
ELSEWHERE = "elsewhere"


def declare(topology: Topology) -> None:
    """Declare the external exchanges and queues of a topology on its broker."""
    with broker.connect(topology) as connection:
        channel: Channel = connection.default_channel
        exchanges = [one for one in topology.exchanges.values() if one.external_name]
        if exchanges:
            channel.exchange_declare(ELSEWHERE, "fanout", durable=True, auto_delete=False)
            nothing = {"x-max-length": 0}
            channel.queue_declare(ELSEWHERE, durable=True, auto_delete=False, arguments=nothing)
            channel.queue_bind(ELSEWHERE, ELSEWHERE, "")
        for exchange in exchanges:
            name = exchange.external_name
            if broker.exchange_exists(connection, name):
                continue  # an exchange of the broker, such as amq.topic
            arguments = {"alternate-exchange": ELSEWHERE}
            channel.exchange_declare(
                name, exchange.type, durable=True, auto_delete=False, arguments=arguments
            )
        for queue in topology.queues.values():
            if queue.external_name:
                name = queue.external_name
                channel.queue_declare(name, durable=True, auto_delete=False)
                channel.exchange_declare(_way_to(queue), "fanout", durable=True, auto_delete=False)
                channel.queue_bind(name, _way_to(queue), "")


def deliver(channel: Channel, queue: Queue, payload: Any, key: str) -> None:
    """Put a message into an external queue.

    Args:
        channel: a channel of the broker.
        queue: the external queue.
        payload: a mapping, which becomes JSON, or a body of text or bytes.
        key: the routing key.

    """
    if isinstance(payload, str | bytes):
        body = payload.encode() if isinstance(payload, str) else payload
        kind = "text/plain" if isinstance(payload, str) else "application/octet-stream"
    else:
        body, kind = encode_payload(payload), JSON
    message = Outgoing(_way_to(queue), key, body, kind, "", stamp=None)
    channel.basic_publish(message.as_amqp_message(channel), message.exchange, key)


def _way_to(queue: Queue) -> str:
    """Return the name of the exchange that routes all messages to a queue.

    A message that is published to this exchange can have any routing key.
    """
    return f"{queue.external_name}:in"
