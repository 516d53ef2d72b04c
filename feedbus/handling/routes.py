"""Select the handler of a message, by its routing key or by its property `type`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from feedbus.handling.handlers import Handler, resolve
from feedbus.topic_patterns import topic_matches, words_of
from feedbus.topology import Consumer, Queue


@dataclass(frozen=True, slots=True)
class HandlerRoutes:
    """The handlers of one queue; the first one that matches a message handles it.

    Attributes:
        handlers: the handlers of the queue, in the order of topology.toml.
        patterns: one text for each handler, in the same order: the pattern of its routing keys, as
            for a topic exchange. Empty unless the queue selects handlers by routing key.
        types: one text for each handler, in the same order: the property `type` of its messages.
            Empty unless the queue selects handlers by type.

    """

    handlers: Sequence[Handler]
    patterns: tuple[str, ...] = ()
    types: tuple[str, ...] = ()

    @classmethod
    def of(cls, queue: Queue, root: Path) -> HandlerRoutes:
        """Import the handlers of a queue, and return them with their routes.

        Args:
            queue: the queue, as topology.toml declares it.
            root: the folder from which the handlers are imported.

        Raises:
            UsageError: a handler cannot be imported, or is not a handler.

        """
        if queue.handlers:
            found = [resolve(dotted, root) for dotted in queue.handlers.values()]
            return cls(found, patterns=tuple(queue.handlers))
        if queue.handlers_by_type:
            found = [resolve(dotted, root) for dotted in queue.handlers_by_type.values()]
            return cls(found, types=tuple(queue.handlers_by_type))
        return cls([resolve(queue.handler, root)])

    def wrapped(
        self, wrap: Callable[[Handler, Consumer], Handler], consumer: Consumer
    ) -> HandlerRoutes:
        """Return routes in which wrap() has replaced each handler; a test system uses it.

        Args:
            wrap: called with a handler and the consumer; returns the handler to use instead.
            consumer: the consumer.
        """
        return replace(self, handlers=[wrap(handler, consumer) for handler in self.handlers])

    @property
    def has_one_handler(self) -> bool:
        """Whether the queue has one handler for all messages."""
        return not self.patterns and not self.types

    def index_for(self, routing_key: str, properties: Mapping[str, Any]) -> int | None:
        """Return the index of the handler for a message; None if no handler matches.

        Args:
            routing_key: the routing key with which the message was first published.
            properties: AMQP's properties of the message.

        """
        if self.has_one_handler:
            return 0
        if self.types:
            kind = properties.get("type")
            return self.types.index(kind) if kind in self.types else None
        return _first_match(self.patterns, routing_key)

    def no_handler_reason(self, routing_key: str, properties: Mapping[str, Any]) -> str:
        """Return the error text for a message that no handler matches, with what was expected.

        Args:
            routing_key: the routing key with which the message was first published.
            properties: AMQP's properties of the message.
        """
        if self.types:
            kind = properties.get("type")
            shown = f"the type {kind!r:.60}" if kind is not None else "no type"
            return f"no handler: expected a message type of {', '.join(self.types)}, got {shown}"
        expected = f"a routing key like {', '.join(self.patterns)}"
        return f"no handler: expected {expected}, got {routing_key!r}"


@lru_cache(maxsize=4096)
def _first_match(patterns: tuple[str, ...], routing_key: str) -> int | None:
    words = words_of(routing_key)
    for number, pattern in enumerate(patterns):
        if topic_matches(pattern.split("."), words):
            return number
    return None
