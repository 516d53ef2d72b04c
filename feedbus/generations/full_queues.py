"""Repeat a switch of rings until the full queues of the rings have room."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from feedbus import broker
from feedbus.generations import state_queues
from feedbus.generations.held_messages import NoRoomError
from feedbus.generations.switch_notices import notify_consumers
from feedbus.logs import EventLog
from feedbus.topology import Generation, Topology
from feedbus.wire.amqp_protocols import Channel, Connection

events = EventLog(__name__)

ROOM_SECONDS = 1.0  # between two attempts to append messages to a full queue

Changed = TypeVar("Changed")


def repeat_while_full(
    connection: Connection,
    topology: Topology,
    change: Callable[[Channel], Changed],
    on_full: Callable[[], None] = lambda: None,
) -> Changed:
    """Call a function that switches rings, and repeat the call until no queue is full.

    During each call, this function holds the topology's lock. Between two calls, the lock is free,
    because the consumers of old queues may need the lock before they can make room in the queues.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.
        change: a function that calls switch_ring(). It is called with a channel. If it raises
            NoRoomError, it is called again, and must then continue where it was interrupted. Its
            result is returned.
        on_full: called once if messages wait for room in a full queue. It starts the consumers that
            do not run: perhaps no running consumer reads the full queue.

    Raises:
        UsageError: another process holds the lock for too long.

    """
    waits = False
    while True:
        channel = connection.channel()
        try:
            with broker.locked(connection, topology):
                result = change(channel)
        except NoRoomError as error:
            if not waits:
                _report(error.generation)
                on_full()
                # The full queue can be in a ring whose consumers do not read it yet, for example if
                # an earlier process has switched to this ring, and was killed before it notified
                # the consumers. Such consumers read only the older ring. So they are notified now.
                states = state_queues.exact_states(connection, topology)
                notify_consumers(connection, topology, states.values())
            waits = True
        else:
            channel.close()
            return result
        channel.close()
        broker.clock(topology).sleep(ROOM_SECONDS)


def _report(generation: Generation) -> None:
    shards = ", ".join(member for member, _ in generation.members)
    events.warning(
        "held_messages_wait",
        f"{generation.exchange}: messages that arrived during a change of its shards cannot be"
        f" moved yet, because a queue of generation {generation.digest} ({shards}) is full; they"
        " are moved when a consumer has read messages from it",
        exchange=generation.exchange,
    )
