"""The messages that arrive during a switch: they are held, then appended to an old ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from feedbus.broker.publisher import WINDOW, publish_all
from feedbus.broker_names import Names
from feedbus.errors import Outage
from feedbus.generations.queue_emptying import Emptying
from feedbus.logs import EventLog
from feedbus.topology import Generation, Topology
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.outgoing_message import Moved

events = EventLog(__name__)


def append_held(
    channel: Channel,
    names: Names,
    exchange: str,
    generations: Sequence[Generation],
    on_full: Callable[[], None],
) -> None:
    """Append held messages, in their order, to the first of these generations that exists."""
    waits = False

    def wait(generation: Generation) -> None:
        nonlocal waits
        if waits:
            return
        waits = True
        shards = ", ".join(member for member, _ in generation.members)
        events.warning(
            "held_messages_wait",
            f"{exchange}: messages that arrived during a change of its shards cannot be moved yet,"
            f" because a queue of the old shards ({shards}) is full; they are moved when a consumer"
            " has read messages from it",
            exchange=exchange,
        )
        on_full()

    def append(messages: Sequence[Any]) -> None:
        moved = [Moved.of(each, "", each.delivery_info["routing_key"]) for each in messages]
        for generation in generations:
            moved = [replace(each, exchange=names.ring(generation)) for each in moved]
            refusals = publish_all(
                channel.connection,
                moved,
                # One by one, so that no message overtakes one that a full queue has refused.
                at_once=1 if _may_refuse(names.topology, generation) else WINDOW,
                on_full=partial(wait, generation),
            )
            refused = {id(each.message) for each in refusals}
            moved = [each for each in moved if id(each) in refused]
        if moved:
            msg = f"broker: no shard accepts {len(moved)} messages of queue {names.held(exchange)}"
            raise Outage(msg)

    with Emptying(channel.connection, names.held(exchange), append) as emptying:
        emptying.move_all()


def _may_refuse(topology: Topology, generation: Generation) -> bool:
    """Whether a queue of a ring may refuse messages, because it is full."""
    exchange = generation.exchange
    if generation.shape != topology.generation(exchange).shape:
        return True  # the arguments of its queues are not known here
    queues = [each for each in topology.queues.values() if each.exchange == exchange]
    given = [each.overflow or each.arguments.get("x-overflow") for each in queues]
    return any(str(each).startswith("reject-publish") for each in given)
