"""Which ring of a hash exchange is current, and the step from one generation to the next.

The broker itself keeps the answer: a queue of length one holds a message that names the current
generation and those that still drain, oldest first. Whoever changes it holds the topology's lock.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from amqp.exceptions import NotFound
from kombu.connection import Connection

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.topology import Generation, Topology

READ_ATTEMPTS = 10
READ_PAUSE_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class State:
    """The current generation of an exchange, and those before it that are not empty yet."""

    current: Generation
    draining: tuple[Generation, ...] = ()


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
    queue = Names(topology).generations(exchange)
    _declare(channel, queue)
    for _ in range(READ_ATTEMPTS):
        message = channel.basic_get(queue)
        if message is not None:
            channel.basic_reject(message.delivery_tag, requeue=True)
            return _decode(exchange, message.body)
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
        state = State(wanted)
        _write(channel, names, state)
    elif state.current.members != wanted.members:
        # Said before it is done: whoever finds it so after a crash finishes it.
        draining = (*state.draining, state.current)
        while wanted in draining:
            wanted = replace(wanted, turn=wanted.turn + 1)
        state = State(wanted, draining)
        _write(channel, names, state)
    wanted = state.current
    broker.declare_ring(channel, names, wanted)
    for old in state.draining:
        _leave(channel, names, old)
    _lead(channel, names, wanted)
    if state.draining:
        _append_held(channel, names, state.draining[-1])
    return state


def drained(channel: Any, topology: Topology, generation: Generation) -> None:
    """Take a generation whose queues are gone out of the state, and delete its ring.

    The caller holds the topology's lock.
    """
    state = read(channel, topology, generation.exchange)
    if state is None or generation not in state.draining:
        return
    names = Names(topology)
    left = tuple(old for old in state.draining if old != generation)
    _write(channel, names, replace(state, draining=left))
    channel.exchange_delete(names.ring(generation))


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
    while (message := channel.basic_get(held)) is not None:
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


def _write(channel: Any, names: Names, state: State) -> None:
    queue = names.generations(state.current.exchange)
    body = json.dumps(
        {
            "current": [state.current.turn, state.current.members],
            "draining": [[old.turn, old.members] for old in state.draining],
        }
    )
    message = channel.prepare_message(
        body.encode(), content_type="application/json", properties={"delivery_mode": 2}
    )
    channel.basic_publish(message, "", queue)


def _decode(exchange: str, body: bytes | str) -> State:
    told = json.loads(body)
    draining = tuple(_generation(exchange, old) for old in told["draining"])
    return State(_generation(exchange, told["current"]), draining)


def _generation(exchange: str, told: tuple[int, list[tuple[str, int]]]) -> Generation:
    turn, members = told
    return Generation(exchange, tuple((name, weight) for name, weight in members), turn)


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
