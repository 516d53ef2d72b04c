"""The messages that arrive during a switch of rings: they are held, then appended to the old ring.

While no ring is bound to the entry (the exchange to which publishers publish), the broker puts
messages into the queue of the entry's alternate exchange. These are the held messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from feedbus import broker
from feedbus.broker.publisher import NACKED_SECONDS, publish_all
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage
from feedbus.generations.queue_emptying import MAX_AT_ONCE, QueueEmptier
from feedbus.topology import Generation, Topology
from feedbus.units import counted
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.outgoing_message import Moved


class NoRoomError(Exception):
    """A queue of a ring is full, so a held message cannot be appended to this queue yet.

    append_held() raises this error. Then the switch is repeated until the queue has room.

    Attributes:
        generation: the generation to which the full queue belongs.

    """

    def __init__(self, generation: Generation) -> None:
        """Create the error for the ring of a full queue."""
        super().__init__(generation.exchange)
        self.generation = generation


def append_held(
    channel: Channel, names: Names, exchange: str, generations: Sequence[Generation]
) -> None:
    """Append the held messages, in order, to the queues of the first of these generations.

    If the first generation has no queue for a message, for example because an operator has deleted
    the queue, the message is appended to the next generation.

    switch_ring() calls this at the end of a switch. It also calls this if no switch is needed: a
    slow broker may have put a message into the queue of held messages after the last switch.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        names: the names of the topology's objects on the broker.
        exchange: the name of the exchange in topology.toml.
        generations: the generations; the last one is the current one.

    Raises:
        NoRoomError: a queue is full. The messages that were not appended stay in the queue of held
            messages.
        BrokerOutage: no generation has a queue for a message.

    """
    # If a queue may be full, messages are appended one by one. So no message overtakes a message
    # that the full queue has refused. In all other cases, a queue refuses messages only for a short
    # time, for example while it has no leader. Then they are published again until it accepts them.
    one_by_one = any(may_refuse(names.topology, generation) for generation in generations)
    # An operator may have deleted the exchange of an old ring. Such a ring is left out, because the
    # broker closes the channel when a message is published to a missing exchange. The ring of the
    # current generation, the last one, was declared before this call.
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
            # A permanent refusal is caused by the message itself, and not by a full queue.
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
            raise BrokerOutage(msg)

    at_once = 1 if one_by_one else MAX_AT_ONCE
    with QueueEmptier(channel.connection, names.held(exchange), append, at_once=at_once) as emptier:
        emptier.move_all()


def may_refuse(topology: Topology, generation: Generation) -> bool:
    """Whether a queue of a ring may refuse messages, because it is full.

    A full queue refuses messages if it was declared with overflow `reject-publish` or
    `reject-publish-dlx`. If the arguments of the queues are not known, the result is True.

    Args:
        topology: the topology, which declares the current arguments of the queues.
        generation: the generation of the ring.

    """
    exchange = generation.exchange
    if generation.shape != topology.generation(exchange).shape:
        return True  # its queues have other arguments, which are not known here
    queues = [each for each in topology.queues.values() if each.exchange == exchange]
    overflows = [each.overflow or each.arguments.get("x-overflow") for each in queues]
    return any(str(each).startswith("reject-publish") for each in overflows)
