"""Generations: the rings that an x-consistent-hash exchange has had, and the current one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from feedbus.topology.queues import Exchange, Queue

MAX_BUCKETS = 10_000  # the largest number of buckets of a ring
# The delivery limit of quorum queues, so large that it is never reached. When a channel ends, a
# quorum queue also counts a delivery of each message that was only prefetched. By default,
# RabbitMQ 4 drops a message after 20 deliveries. For RabbitMQ 4, a limit of -1 means no limit. But
# RabbitMQ 3.10 drops a message immediately with the limit -1.
NO_DELIVERY_LIMIT = 2**31 - 1

# The properties with which a queue is declared. They cannot be changed on an existing queue.
DECLARED = (
    "type",
    "single_active_consumer",
    "message_ttl_seconds",
    "max_length",
    "overflow",
    "arguments",
)


@dataclass(frozen=True)
class Generation:
    """One ring of an x-consistent-hash exchange: its shards with their weights, in their order.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        members: (name of the consumer, weight) of each shard, in the order in which the shards'
            queues are bound.
        number: counts the generations of the exchange: 0 for the first one, and each switch
            increases the number by 1.
        shape: a digest of the arguments of the ring's exchange and queues; "" if all have the
            default values.
    """

    exchange: str
    members: tuple[tuple[str, int], ...]
    number: int = 0
    shape: str = ""

    @cached_property
    def digest(self) -> str:
        """A digest of the members, the number and the shape, as eight hexadecimal digits.

        It is a part of the names of the ring and of its queues on the broker.
        """
        shape = [self.shape] if self.shape else []
        text = json.dumps([*self.members, self.number, *shape], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def unconnected(self) -> Generation:
        """Return a generation with the same shards that is never on the broker.

        Publishers use it while they do not know a generation that was connected. The broker
        returns each pack for it. Then the publisher reads the state of the ring again.
        """
        return replace(self, number=-1)


def shape_of(exchange: Exchange, queues: Iterable[Queue]) -> str:
    """Return a digest of the arguments with which a ring is declared; "" for the default ones.

    Args:
        exchange: the exchange of the ring.
        queues: the queues whose shards are bound to the ring.

    """
    declared: list[Any] = [sorted(exchange.arguments.items())]
    for queue in queues:
        default = Queue(queue.name, "", "", single_active_consumer=queue.shards is not None)
        changed = {
            name: value
            for name in DECLARED
            if (value := getattr(queue, name)) != getattr(default, name)
        }
        if queue.type == "quorum":
            changed["x-delivery-limit"] = NO_DELIVERY_LIMIT
        if changed:
            declared.append([queue.name, changed | {"arguments": dict(queue.arguments)}])
    if declared == [[]]:
        return ""
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:8]
