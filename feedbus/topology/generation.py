"""Generations: the rings that an x-consistent-hash exchange has had, and the current one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from feedbus.topology.exchanges import Exchange
from feedbus.topology.queues import Queue

MAX_BUCKETS = 10_000  # the largest number of buckets of a ring
# The delivery limit of quorum queues, so large that it is never reached. By default, RabbitMQ 4
# drops a message after 20 deliveries. When a consumer's channel ends, a quorum queue counts a
# delivery of each unacknowledged message, also of those that no handler got. So after some restarts
# of a consumer, messages would be lost. -1 is not possible: it means no limit for RabbitMQ 4, but
# RabbitMQ 3.10 then drops each message immediately.
NO_DELIVERY_LIMIT = 2**31 - 1

# The properties with which a queue is declared, and which an existing queue keeps.
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
        number: counts the generations of the exchange. The first generation has 0, and each switch
            to a new generation increases the number by 1.
        shape: a digest of the arguments of the ring's exchange and queues; "" if all arguments have
            their default values.
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

        A publisher makes packs for this generation in two cases: it has not read the state of the
        ring yet, or the first switch of the exchange is not complete. No queue belongs to this
        generation, so the broker returns each of these packs. Then the publisher reads the state of
        the ring, and sends the records as single messages.
        """
        return replace(self, number=-1)


def shape_of(exchange: Exchange, queues: Iterable[Queue]) -> str:
    """Return a digest of the arguments with which a ring is declared; "" if all are defaults.

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
