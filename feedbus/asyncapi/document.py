"""The AsyncAPI 3 document of a topology: its servers, channels, operations and messages."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from feedbus.asyncapi.messages import Messages
from feedbus.broker_names import Names
from feedbus.handling.routes import HandlerRoutes
from feedbus.topology import Exchange, Queue, Topology
from feedbus.urls import BrokerUrl

VERSION = "3.0.0"
BINDING = {"bindingVersion": "0.3.0"}
AMQP_TYPES = {"direct", "topic", "fanout"}  # exchange types that AsyncAPI's AMQP binding has
# Sentences in the descriptions of exchanges.
HASHED = (
    "The routing key of a message chooses its shard, by consistent hashing. The exchange itself is "
    "a fanout exchange, which routes to the current ring."
)
PACKED = (
    "feedbus may put up to {pack:,} records into one message, of the content type "
    "application/vnd.feedbus.pack+json; a publisher may send each record alone."
)


def document(topology: Topology, version: str = "1.0.0") -> dict[str, Any]:
    """Return the AsyncAPI 3 document of a topology, for `feedbus asyncapi`, as JSON values.

    In the document, the project sends to a channel for each exchange, and receives from a channel
    for each queue.

    Args:
        topology: the topology; its handlers are imported.
        version: the version of the described interface.

    Raises:
        UsageError: a handler cannot be imported, or the type of its parameter is not a message
            type.

    """
    routes = {
        queue.name: HandlerRoutes.of(queue, topology.root) for queue in topology.queues.values()
    }
    messages = Messages.of(topology, routes)
    return {
        "asyncapi": VERSION,
        "info": {"title": topology.name, "version": version},
        "defaultContentType": "application/json",
        "servers": dict(_servers(topology.broker_url)),
        "channels": dict(_channels(topology, messages)),
        "operations": dict(_operations(topology, routes, messages)),
        "components": {"messages": messages.components, "schemas": messages.schemas},
    }


def _servers(url: BrokerUrl) -> Iterator[tuple[str, dict[str, Any]]]:
    if url.embedded:
        described = "The embedded broker of feedbus, a SQLite file on this machine."
        yield "embedded", {"host": "localhost", "protocol": "sqlite", "description": described}
    for number, node in enumerate(url.nodes, 1):
        yield (
            f"rabbitmq{number}" if len(url.nodes) > 1 else "rabbitmq",
            {
                "host": f"{node.host}:{node.port}",
                "pathname": node.virtual_host,
                "protocol": "amqp" if node.tls is None else "amqps",
                "protocolVersion": "0.9.1",
                "security": [{"type": "userPassword"}],
            },
        )


def _channels(topology: Topology, messages: Messages) -> Iterator[tuple[str, dict[str, Any]]]:
    virtual_host = topology.broker_url.nodes[0].virtual_host if topology.broker_url.nodes else "/"
    for exchange in topology.exchanges.values():
        names = messages.of_exchange(topology, exchange.name)
        channel = _exchange_channel(topology, exchange, virtual_host)
        yield _exchange_key(exchange.name), channel | {"messages": _references(names)}
    for queue in topology.queues.values():
        channel = _queue_channel(topology, queue, virtual_host)
        yield _queue_key(queue), channel | {"messages": _references(messages.of_queue[queue.name])}


def _exchange_channel(topology: Topology, exchange: Exchange, virtual_host: str) -> dict[str, Any]:
    binding = {
        "name": Names(topology).exchange(exchange.name),
        "durable": True,
        "autoDelete": False,
        "vhost": virtual_host,
    }
    kind = "fanout" if exchange.hashed and not exchange.external_name else exchange.type
    if kind in AMQP_TYPES:
        binding["type"] = kind
    keys = [
        key
        for queue in topology.queues.values()
        if queue.exchange == exchange.name
        for key in queue.routing_keys
    ]
    parameter: dict[str, Any] = {"description": "The routing key of the message."}
    if exchange.type == "direct" and keys and not exchange.external_name:
        parameter["enum"] = list(dict.fromkeys(keys))
    elif exchange.type == "topic" and keys:
        parameter["description"] = f"The routing key; queues take {', '.join(dict.fromkeys(keys))}."
    described = [HASHED] if exchange.hashed else []
    described += [PACKED.format(pack=exchange.pack)] if exchange.pack else []
    described += ["Another system declares this exchange."] if exchange.external_name else []
    return {
        "address": "{routing_key}",
        "title": exchange.name,
        **({"description": " ".join(described)} if described else {}),
        "parameters": {"routing_key": parameter},
        "bindings": {"amqp": {"is": "routingKey", "exchange": binding, **BINDING}},
    }


def _queue_channel(topology: Topology, queue: Queue, virtual_host: str) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    binding = {"durable": True, "exclusive": False, "autoDelete": False, "vhost": virtual_host}
    if topology.on_ring(queue):
        address = f"{topology.name}.{queue.name}"
        if queue.shards is not None:
            address += "_{shard}"
            described = f"The number of the shard, 0 to {queue.shards - 1}."
            parameters["shard"] = {"description": described}
        address += ".{generation}"
        described = "The digest of the ring that the queue belongs to, eight hexadecimal digits."
        parameters["generation"] = {"description": described}
    else:
        address = binding["name"] = Names(topology).unsharded(queue)
    return {
        "address": address,
        "title": queue.name,
        **({"parameters": parameters} if parameters else {}),
        "bindings": {"amqp": {"is": "queue", "queue": binding, **BINDING}},
    }


def _operations(
    topology: Topology, routes: Mapping[str, HandlerRoutes], messages: Messages
) -> Iterator[tuple[str, dict[str, Any]]]:
    sent = {"deliveryMode": 2, "mandatory": True, "timestamp": True, **BINDING}
    for exchange in topology.exchanges:
        yield (
            f"publish.{exchange}",
            _operation("send", _exchange_key(exchange), messages.of_exchange(topology, exchange))
            | {"bindings": {"amqp": sent}},
        )
    for schedule in topology.schedules.values():
        names = messages.of_exchange(topology, schedule.exchange)
        summary = f"Published at the moments of '{schedule.cron}' ({schedule.timezone})."
        yield (
            f"schedule.{schedule.name}",
            _operation("send", _exchange_key(schedule.exchange), names) | {"summary": summary},
        )
    for queue in topology.queues.values():
        operation = _operation("receive", _queue_key(queue), messages.of_queue[queue.name])
        operation["bindings"] = {"amqp": {"ack": True, **BINDING}}
        purposes = [inspect.getdoc(each.function) for each in routes[queue.name].handlers]
        if len(purposes) == 1 and purposes[0]:
            operation["summary"] = purposes[0].partition("\n")[0]
        yield f"handle.{queue.name}", operation


def _operation(action: str, channel: str, names: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


def _references(names: list[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


def _exchange_key(exchange: str) -> str:
    return f"exchange.{exchange}"


def _queue_key(queue: Queue) -> str:
    return f"queue.{queue.name}"
