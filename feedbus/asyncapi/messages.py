"""The messages of an AsyncAPI document: one for each message type of a handler."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from feedbus.handling.message_types import RecordLoader
from feedbus.handling.routes import HandlerRoutes
from feedbus.topology import Queue, Topology

CONTENT_TYPES = {"object": "application/json", "text": "text/plain"}
BYTES = "application/octet-stream"
DEFINITIONS = "#/$defs/"


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of a topology in its AsyncAPI document, and the messages of each queue.

    Attributes:
        components: maps the name of each message in the document to its message object.
        schemas: maps a name to the JSON Schema of a payload, or of a definition in such a schema.
        of_queue: maps each queue to the names of its messages.

    """

    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    of_queue: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: Topology, routes: Mapping[str, HandlerRoutes]) -> Messages:
        """Return the messages that the handlers of a topology get.

        Args:
            topology: the topology.
            routes: maps each queue to its imported handlers.

        """
        found = cls()
        for queue in topology.queues.values():
            content_type = None
            if not queue.external_name:
                content_type = topology.exchanges[queue.exchange].content_type
            found.of_queue[queue.name] = list(
                dict.fromkeys(found._add(queue, routes[queue.name], content_type))
            )
        return found

    def of_exchange(self, topology: Topology, exchange: str) -> list[str]:
        """Return the names of the messages that the queues of an exchange receive, each once.

        Args:
            topology: the topology of the messages.
            exchange: the name of the exchange.

        """
        queues = [each for each in topology.queues.values() if each.exchange == exchange]
        return list(dict.fromkeys(name for each in queues for name in self.of_queue[each.name]))

    def _add(self, queue: Queue, routes: HandlerRoutes, content_type: str | None) -> Iterator[str]:
        """Add the messages of a queue's handlers; yield the name of each.

        Args:
            queue: the queue.
            routes: the imported handlers of the queue.
            content_type: the option `content_type` of the queue's exchange. With None, the
                parameter of the handler determines the content type.

        """
        types: Sequence[str | None] = routes.types or [None] * len(routes.handlers)
        for handler, amqp_type in zip(routes.handlers, types, strict=True):
            record_loader = handler.record_loader()
            name = record_loader.name or amqp_type or queue.name
            described: dict[str, Any] = {
                "name": amqp_type or name,
                "title": name,
                "contentType": content_type or CONTENT_TYPES.get(record_loader.reads, BYTES),
            }
            if amqp_type is not None:
                described["bindings"] = {
                    "amqp": {"messageType": amqp_type, "bindingVersion": "0.3.0"}
                }
            yield self._add_message(_key(name), queue, record_loader, described)

    def _add_message(
        self, name: str, queue: Queue, record_loader: RecordLoader, described: dict[str, Any]
    ) -> str:
        """Add a message to the components, unless an equal one exists; return its name there.

        If another message or schema already has the name, the name of the queue is put in front of
        it. If that name is taken, too, a number is added to it.

        Args:
            name: the wanted name.
            queue: the queue whose handler gets the message.
            record_loader: returns the JSON Schema of the payload.
            described: the message object without its payload.

        """
        schema = record_loader.json_schema()
        for key in _possible_names(queue, name):
            schemas = _schemas(key, schema)
            message = described | {"payload": {"$ref": f"#/components/schemas/{key}"}}
            taken = self.components.get(key, message) != message or any(
                self.schemas.get(each, inner) != inner for each, inner in schemas.items()
            )
            if not taken:
                break
        self.components[key] = message
        self.schemas.update(schemas)
        return key


def _possible_names(queue: Queue, name: str) -> Iterator[str]:
    """Yield the names that a message of a queue can get, without end; the wanted name is first."""
    yield name
    yield f"{queue.name}.{name}"
    yield from (f"{queue.name}.{name}.{number}" for number in count(2))


def _schemas(name: str, schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a JSON Schema and its definitions as components of a document, by name.

    Args:
        name: the name of the schema in the document; the names of its definitions begin with it.
        schema: the JSON Schema.

    """
    definitions = schema.get("$defs", {})
    top = schema.get("$ref", "").removeprefix(DEFINITIONS)
    names = {each: name if each == top else f"{name}.{_key(each)}" for each in definitions}
    found = {names[each]: _within_document(inner, names) for each, inner in definitions.items()}
    if top not in definitions:
        own = {key: value for key, value in schema.items() if key != "$defs"}
        found[name] = _within_document(own, names)
    return found


def _within_document(schema: Any, names: Mapping[str, str]) -> Any:
    """Return a schema whose references point to components of the document.

    The keyword `discriminator` names the field whose value selects one of several alternatives. The
    keyword is left out: in AsyncAPI, the value must be the name of a definition, but in msgspec and
    pydantic it can be another text. Without the keyword, the schema is still complete, because each
    alternative requires its own value of the field.

    Args:
        schema: a JSON Schema, or a value in it.
        names: maps the name of each definition of the schema to the name of its component.

    """
    if isinstance(schema, list):
        return [_within_document(each, names) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {
        key: _within_document(value, names)
        for key, value in schema.items()
        if not (key == "discriminator" and isinstance(value, Mapping) and "mapping" in value)
    }
    reference = found.get("$ref")
    if isinstance(reference, str) and reference.startswith(DEFINITIONS):
        found["$ref"] = f"#/components/schemas/{names[reference.removeprefix(DEFINITIONS)]}"
    return found


def _key(name: str) -> str:
    """Return a name in which "_" replaces each character that AsyncAPI does not allow in keys."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
