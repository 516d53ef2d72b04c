"""The messages that arrive during a switch: they are held, then appended to an old ring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from feedbus import broker
from feedbus.broker.publisher import NACKED_SECONDS, publish_all
from feedbus.broker_names import Names
from feedbus.errors import Outage
from feedbus.generations.queue_emptying import MAX_AT_ONCE, QueueEmptier
from feedbus.topology import Generation, Topology
from feedbus.units import counted
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.outgoing_message import Moved


class NoRoomError(Exception):
    """A queue is full, so that a held message cannot be appended to it yet.

    append_held() raises it. The switch is then repeated until the queue has room.

    Attributes:
        generation: the ring of the queue.

    """

    def __init__(self, generation: Generation) -> None:
        """Create the error for the ring of a full queue."""
        super().__init__(generation.exchange)
        self.generation = generation


def append_held(
    channel: Channel, names: Names, exchange: str, generations: Sequence[Generation]
) -> None:
    """Append held messages, in their order, to the first of these generations that has queues.

    It is called during and after a switch of rings: messages that arrive meanwhile are held.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        names: the names of the topology's objects on the broker.
        exchange: the name of the exchange in topology.toml.
        generations: the generations, the preferred one first.

    Raises:
        NoRoomError: a queue is full. The messages that are not appended yet are still held.
        Outage: no generation has a queue for a message.

    """
    # If a queue may be full, messages are appended one by one. So no message overtakes a message
    # that the full queue has refused. A queue that is never full refuses messages only for a short
    # time, for example while it has no leader. So the publisher tries again without a time limit.
    one_by_one = any(may_refuse(names.topology, generation) for generation in generations)
    # An operator may have deleted the exchange of an old ring.
    existing = [
        generation
        for generation in generations
        if generation == generations[-1]
        or broker.exchange_exists(channel.connection, names.ring(generation))
    ]

    def append(messages: Sequence[Any]) -> None:
        moved = [Moved.of(each, "", each.delivery_info["routing_key"]) for each in messages]
        for generation in existing:
            moved = [replace(each, exchange=names.ring(generation)) for each in moved]
            refusals = publish_all(
                channel.connection,
                moved,
                nacked_seconds=NACKED_SECONDS if one_by_one else math.inf,
            )
            if any(each.outcome == "nacked" and not each.is_permanent for each in refusals):
                raise NoRoomError(generation)
            refused = {id(each.message) for each in refusals}
            moved = [each for each in moved if id(each) in refused]
        if moved:
            msg = (
                f"broker: no shard accepts {counted(len(moved), 'message')} of queue"
                f" {names.held(exchange)}; the queue keeps its messages; run `feedbus apply`, which"
                " declares missing shards"
            )
            raise Outage(msg)

    at_once = 1 if one_by_one else MAX_AT_ONCE
    with QueueEmptier(channel.connection, names.held(exchange), append, at_once=at_once) as emptier:
        emptier.move_all()


def may_refuse(topology: Topology, generation: Generation) -> bool:
    """Whether a queue of a ring may refuse messages, because it is full.

    This depends on the arguments of the queues, such as a maximal length. Messages are then
    appended one by one, so that none overtakes a refused one.

    Args:
        topology: the topology of the ring.
        generation: the generation of the ring.

    """
    exchange = generation.exchange
    if generation.shape != topology.generation(exchange).shape:
        return True  # the arguments of its queues are not known here
    queues = [each for each in topology.queues.values() if each.exchange == exchange]
    overflows = [each.overflow or each.arguments.get("x-overflow") for each in queues]
    return any(str(each).startswith("reject-publish") for each in overflows)
