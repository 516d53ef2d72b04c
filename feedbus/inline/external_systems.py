"""Declare the external exchanges and queues on a broker in memory.

In production, another system declares them. A broker in memory has no other system.
"""

from __future__ import annotations

from typing import Any

from feedbus import broker
from feedbus.records.payloads import encode_payload
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import JSON

# The name of an exchange and its queue. In production, a queue of the other system can receive a
# message that matches no queue of the topology. In memory, this queue does not exist, and the
# message would be returned as unroutable. So it goes to the queue ELSEWHERE, which drops it.
ELSEWHERE = "elsewhere"


def declare(topology: Topology) -> None:
    """Declare the external exchanges and queues of a topology on its broker in memory.

    It is called once, when a system of the topology is created for the first time.
    """
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
                continue  # the broker itself declares it, such as amq.topic
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
    """Put a message into an external queue, as the other system does.

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

    The message keeps its routing key. The default exchange could not do this: there, the routing
    key is the name of the queue.
    """
    return f"{queue.external_name}:in"
