"""Which ring of a hash exchange is current, and the step from one generation to the next.

The broker itself keeps the answer: a queue of length one holds a message that names the current
generation and those that still drain, oldest first. Whoever changes it holds the topology's lock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from amqp.exceptions import NotFound
from kombu.connection import Connection

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.topology import Generation, Topology

FENCE = "feedbus-fence"
EXIT_AT = "FEEDBUS_EXIT_AT"
EXIT_CODE = 99
APPEND_PAUSE_SECONDS = 0.05
READ_ATTEMPTS = 10
READ_PAUSE_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class State:
    """The current generation of an exchange, and those before it that are not empty yet.

    While it is not settled, a switch is under way: what drains may still get records.
    """

    current: Generation
    draining: tuple[Generation, ...] = ()
    settled: bool = True
    serial: int = 0


def establish(topology: Topology) -> dict[str, State]:
    """Declare a whole topology on its broker, its rings current; return the state of each ring.

    Raises:
        Outage: the broker is away.
        UsageError: it has an entity with other arguments, or somebody else is at this.

    """
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
        broker.locked(connection, topology),
    ):
        channel = connection.channel()
        broker.declare(channel, topology)
        return {
            exchange.name: adopt(channel, topology, exchange.name)
            for exchange in topology.exchanges.values()
            if exchange.hashed
        }


def known(topology: Topology) -> dict[str, State]:
    """Declare a topology without switching a ring; return the state of each ring.

    The very first time, when the broker knows of no ring yet, the topology's become current.
    """
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        channel = connection.channel()
        broker.declare(channel, topology)
        states = {exchange: read(channel, topology, exchange) for exchange in hashed}
    found = {exchange: state for exchange, state in states.items() if state is not None}
    return found if len(found) == len(hashed) else establish(topology)


def read(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Return the state of an exchange, None when the broker knows of no generation yet."""
    _declare(channel, Names(topology).generations(exchange))
    return peek(channel, topology, exchange)


def peek(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Return the state of an exchange whose queue of generations exists, None when it is empty."""
    queue = Names(topology).generations(exchange)
    for _ in range(READ_ATTEMPTS):
        found: list[State] = []
        tags: list[int] = []
        while (message := channel.basic_get(queue)) is not None:
            tags.append(message.delivery_tag)
            found.append(_decode(exchange, message.body))
        for tag in tags:
            channel.basic_reject(tag, requeue=True)
        if found:
            # There may be two for a moment, when another reader gives back one that was replaced.
            return max(found, key=lambda state: state.serial)
        # Another reader has it in hand for a moment, or there is none.
        time.sleep(READ_PAUSE_SECONDS)
    return None


def adopt(channel: Any, topology: Topology, exchange: str) -> State:
    """Make the topology's ring the current one and return the state that this leaves.

    What arrives between the two rings is held, then appended to the old one, so that each key's
    records stay in order: the new ring's consumers wait until the old ring is empty. Every step
    can be repeated, so a crash anywhere is mended by calling this again. The caller holds the
    topology's lock.
    """
    names = Names(topology)
    wanted = topology.generation(exchange)
    state = read(channel, topology, exchange)
    if state is None:
        state = State(wanted, settled=False)
    elif not same(state.current, wanted):
        draining = (*state.draining, state.current)
        while wanted in draining:
            wanted = replace(wanted, turn=wanted.turn + 1)
        state = State(wanted, draining, settled=False, serial=state.serial)
    elif state.settled:
        broker.declare_ring(channel, names, state.current)
        return state
    broker.declare_ring(channel, names, state.current)
    step("declared")
    # Said before it is done: consumers delete nothing, and after a crash it is done again.
    state = _write(channel, names, state)
    step("written")
    for old in state.draining:
        _leave(channel, names, old)
    step("left")
    _lead(channel, names, state.current)
    step("led")
    if state.draining:
        _append_held(channel, names, state.draining[-1])
        step("appended")
        for old in state.draining:
            _fence(channel, names, old)
        step("fenced")
    state = _write(channel, names, replace(state, settled=True))
    step("settled")
    return state


def same(one: Generation, other: Generation) -> bool:
    """Whether two generations are one ring, but perhaps in another turn."""
    return (one.members, one.shape) == (other.members, other.shape)


def step(name: str) -> None:
    """Pass a step of a change; FEEDBUS_EXIT_AT=NAME ends the process at it, to test crashes."""
    if os.environ.get(EXIT_AT) == name:
        os._exit(EXIT_CODE)


def drained(channel: Any, topology: Topology, generation: Generation) -> None:
    """Take a generation whose queues are gone out of the state, and delete its ring.

    The caller holds the topology's lock.
    """
    state = read(channel, topology, generation.exchange)
    if state is None or generation not in state.draining:
        return
    names = Names(topology)
    channel.exchange_delete(names.ring(generation))
    left = tuple(old for old in state.draining if old != generation)
    _write(channel, names, replace(state, draining=left))


def _declare(channel: Any, queue: str) -> None:
    channel.queue_declare(queue, durable=True, auto_delete=False, arguments={"x-max-length": 1})


def _lead(channel: Any, names: Names, generation: Generation) -> None:
    """Lead plain messages and packs to a generation."""
    channel.exchange_bind(names.ring(generation), names.exchange(generation.exchange), "")
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        channel.queue_bind(queue, names.packs(generation.exchange), key)


def _leave(channel: Any, names: Names, generation: Generation) -> None:
    """Lead nothing more to a generation: packs for it return, plain messages are held."""
    for member, _ in generation.members:
        queue, key = names.member(generation, member), names.pack_key(generation, member)
        channel.queue_unbind(queue, names.packs(generation.exchange), key)
    channel.exchange_unbind(names.ring(generation), names.exchange(generation.exchange), "")


def _append_held(channel: Any, names: Names, old: Generation) -> None:
    """Append what was held to the old ring, in order."""
    held = names.held(old.exchange)
    while (message := _next_held(channel, held)) is not None:
        copy = channel.prepare_message(
            message.body,
            content_type=message.properties.get("content_type"),
            content_encoding="utf-8",
            headers=dict(message.headers or {}),
            properties={
                "delivery_mode": 2,
                "message_id": message.properties.get("message_id"),
            },
        )
        channel.basic_publish(copy, names.ring(old), message.delivery_info["routing_key"])
        channel.basic_ack(message.delivery_tag)


def _next_held(channel: Any, held: str) -> Any:
    """Take the next held message; one that was routed here just before may take a moment."""
    message = channel.basic_get(held)
    if message is None:
        time.sleep(APPEND_PAUSE_SECONDS)
        message = channel.basic_get(held)
    return message


def _fence(channel: Any, names: Names, old: Generation) -> None:
    """End each of a ring's queues with a message that says so.

    Whoever is given it knows that everything before it has been given out, and once that is
    settled deletes the queue.
    """
    for member, _ in old.members:
        message = channel.prepare_message(
            b"", headers={FENCE: old.digest}, properties={"delivery_mode": 2}
        )
        channel.basic_publish(message, "", names.member(old, member))


def _write(channel: Any, names: Names, state: State) -> State:
    """Replace what is written, and return it as it is now."""
    written = replace(state, serial=state.serial + 1)
    body = json.dumps(
        {
            "current": _told(written.current),
            "draining": [_told(old) for old in written.draining],
            "settled": written.settled,
            "serial": written.serial,
        }
    )
    message = channel.prepare_message(
        body.encode(), content_type="application/json", properties={"delivery_mode": 2}
    )
    channel.basic_publish(message, "", names.generations(state.current.exchange))
    return written


def _decode(exchange: str, body: bytes | str) -> State:
    told = json.loads(body)
    draining = tuple(_generation(exchange, old) for old in told["draining"])
    current = _generation(exchange, told["current"])
    return State(current, draining, told["settled"], told["serial"])


def _told(generation: Generation) -> list[Any]:
    shape = [generation.shape] if generation.shape else []
    return [generation.turn, generation.members, *shape]


def _generation(exchange: str, told: Sequence[Any]) -> Generation:
    turn, members, *shape = told
    pairs = tuple((name, weight) for name, weight in members)
    return Generation(exchange, pairs, turn, *shape)


def depths(connection: Connection, topology: Topology) -> dict[str, tuple[int, int]]:
    """Return (messages ready, dead letters) for each consumer by name.

    A queue that is not declared yet counts as empty; shards share their dead letters.
    """
    names = Names(topology)
    channel = connection.channel()
    current = {
        exchange.name: state.current
        for exchange in topology.exchanges.values()
        if exchange.hashed and (state := read(channel, topology, exchange.name)) is not None
    }
    channel.close()
    found: dict[str, tuple[int, int]] = {}
    for consumer in topology.consumers.values():
        generation = current.get(consumer.queue.exchange)
        queue = names.member(generation, consumer.name) if generation else names.queue(consumer)
        found[consumer.name] = (
            _count(connection, queue),
            _count(connection, names.dead(consumer.queue)),
        )
    return found


def _count(connection: Connection, queue: str) -> int:
    channel = connection.channel()
    try:
        count = int(channel.queue_declare(queue, passive=True).message_count)
    except NotFound:
        return 0  # which has closed the channel
    channel.close()
    return count
