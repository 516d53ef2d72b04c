"""Exchanges, and which queues get their messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

ExchangeType = Literal["direct", "topic", "fanout", "x-consistent-hash"]


def empty_mapping() -> Mapping[str, Any]:
    """Return an empty mapping that cannot be changed: the default of options that are tables."""
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exchange:
    """A table [exchanges.NAME]: an exchange.

    Attributes:
        name: the name in topology.toml.
        type: the type of the exchange; it determines which queues get a message.
        pack: the largest number of records in one message; 0 for no packs.
        arguments: the arguments with which feedbus declares the exchange.
        content_type: the content type of the messages that feedbus publishes to the exchange; None
            for JSON.
        external_name: the whole name on the broker, if another system declares the exchange;
            otherwise "".
    """

    name: str
    type: ExchangeType
    pack: int = 0
    arguments: Mapping[str, Any] = field(default_factory=empty_mapping)
    content_type: str | None = None
    external_name: str = ""

    @property
    def hashed(self) -> bool:
        """Whether the exchange has a ring, in which a hash selects the queue of a message."""
        return self.type == "x-consistent-hash"

    @property
    def hashes_routing_keys(self) -> bool:
        """Whether a ring selects shards by the routing key, not by a header or a property."""
        return not {"hash-header", "hash-property"} & {*self.arguments}
