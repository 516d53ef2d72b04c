"""Which ring of a hash exchange is current, and the step from one generation to the next.

The broker itself keeps the answer: a queue of length one holds a message that names the current
generation and those that still drain, oldest first. Whoever changes it holds the topology's lock,
and reads it from a second such queue, the ledger: a reader has the first in hand for a moment, so
that another may find nothing there, or what was true before. Readers may err so, since an old
state leads to queues that are gone or to packs that come back; whoever switches may not.
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
from feedbus.broker import entities
from feedbus.broker.confirming import Confirming
from feedbus.broker.names import Names
from feedbus.topology import Generation, Topology

FENCE = "feedbus-fence"
EXIT_AT = "FEEDBUS_EXIT_AT"
EXIT_CODE = 99
# How long RabbitMQ may take from placing a message to putting it into its queue: the two are no
# one step there, and a message that was placed by a ring just left must not come behind its fence.
IN_FLIGHT_SECONDS = 0.2
APPENDED_AT_ONCE = 200
READ_ATTEMPTS = 100
RECALL_ATTEMPTS = 10  # nobody reads the ledger but under the lock; who died with it gives it back
READ_PAUSE_SECONDS = 0.03


@dataclass(frozen=True, slots=True)
class State:
    """The current generation of an exchange, and those before it that are not empty yet.

    While it is not settled, a switch is under way: what drains may still get records. It is
    disordered when the broker was seen to place by another order than the current generation's.
    """

    current: Generation
    draining: tuple[Generation, ...] = ()
    settled: bool = True
    serial: int = 0
    disordered: bool = False


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
        end_replacements(connection, topology)
        broker.declare(channel, topology)
        return {
            exchange.name: adopt(channel, topology, exchange.name)
            for exchange in topology.exchanges.values()
            if exchange.hashed
        }


def end_replacements(connection: Connection, topology: Topology) -> None:
    """End what an apply that was killed has begun with queues on no ring."""
    from feedbus.broker import replacing  # which needs this module

    names = Names(topology)
    for consumer in topology.consumers.values():
        if topology.exchanges[consumer.queue.exchange].hashed:
            continue
        if entities.exchange_exists(connection, names.gate(consumer)):
            entities.declare_exchanges(connection.channel(), names)
            replacing.Replacement(connection, topology, consumer).carry_out()
    for queue in topology.queues.values():
        for delay in queue.retry.delays_seconds:
            waiting = names.delay(queue, round(delay * 1000))
            if broker.queue_exists(connection, names.parked(waiting)):
                entities.declare_delay(connection.channel(), names, queue, round(delay * 1000))
                replacing.unpark(connection, topology, queue, waiting)


def known(topology: Topology) -> dict[str, State]:
    """Return the state of each ring; where the broker has nothing of the topology, declare it all.

    What is declared already is not touched: that is for `feedbus up` and `feedbus apply` alone,
    lest a process that started before a change undoes it.
    """
    names = Names(topology)
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        entries = {exchange: names.exchange(exchange) for exchange in topology.exchanges}
        if any(entities.exchange_exists(connection, entry) for entry in entries.values()):
            return states(connection, topology)
    return establish(topology)


def states(connection: Connection, topology: Topology) -> dict[str, State]:
    """Return the state of each ring that the broker knows of, declaring nothing."""
    names = Names(topology)
    found: dict[str, State] = {}
    channel = connection.channel()
    for exchange in topology.exchanges.values():
        if exchange.hashed and broker.queue_exists(connection, names.generations(exchange.name)):
            state = peek(channel, topology, exchange.name)
            if state is not None:
                found[exchange.name] = state
    channel.close()
    return found


def read(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Return the state of an exchange, None when the broker knows of no generation yet."""
    queue = Names(topology).generations(exchange)
    _declare(channel, topology, exchange, queue)
    return _take(channel, exchange, queue, RECALL_ATTEMPTS)


def peek(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Return the state of an exchange whose queue of generations exists, None when it is empty."""
    return _take(channel, exchange, Names(topology).generations(exchange))


def _take(channel: Any, exchange: str, queue: str, attempts: int = READ_ATTEMPTS) -> State | None:
    for _ in range(attempts):
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
    can be repeated, so a crash anywhere is mended by calling this again; a switch that was begun
    is ended first, also where the topology wants another ring by now. The caller holds the
    topology's lock.
    """
    names = Names(topology)
    wanted = topology.generation(exchange)
    state = _recall(channel, topology, exchange)
    if state is not None and not state.settled:
        state = _carry_out(channel, names, state)
    if state is None:
        state = State(wanted, settled=False)
    elif same(state.current, wanted) and not state.disordered:
        broker.declare_ring(channel, names, state.current)
        return state
    else:
        draining = (*state.draining, state.current)
        state = State(successor(state, wanted), draining, settled=False, serial=state.serial)
    broker.declare_ring(channel, names, state.current)
    step("declared")
    return _carry_out(channel, names, state)


def _carry_out(channel: Any, names: Names, state: State) -> State:
    """Carry out a switch whose new ring is declared; begin anew where one was left half done."""
    # Said before it is done: consumers delete nothing, and after a crash it is done again.
    state = _write(channel, names, state)
    step("written")
    for old in state.draining:
        _leave(channel, names, old)
    step("left")
    _lead(channel, names, state.current)
    step("led")
    if state.draining:
        if not names.topology.broker_url.startswith("sqlite:"):
            time.sleep(IN_FLIGHT_SECONDS)
        _append_held(channel, names, state)
        step("appended")
        for old in state.draining:
            fence(channel, names, old)
        step("fenced")
    state = _write(channel, names, replace(state, settled=True))
    step("settled")
    return state


def successor(state: State, wanted: Generation) -> Generation:
    """Return the generation that follows the current one."""
    # No turn ever comes again, so a pack that is late finds no ring but its own.
    return replace(wanted, turn=state.current.turn + 1)


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
    state = _recall(channel, topology, generation.exchange)
    if state is None:
        return
    names = Names(topology)
    if generation in state.draining:
        left = tuple(old for old in state.draining if old != generation)
        state = replace(state, draining=left)
    # Told again even where nothing changes: whoever asks for it has read what was true before.
    _write(channel, names, state)
    channel.exchange_delete(names.ring(generation))


def disorder(channel: Any, topology: Topology, generation: Generation) -> None:
    """Write down that the broker places by another order than a generation's.

    The next adopt makes a new generation of the same members. The caller holds the topology's
    lock.
    """
    state = _recall(channel, topology, generation.exchange)
    if state is not None and state.current == generation and not state.disordered:
        _write(channel, Names(topology), replace(state, disordered=True))


def _recall(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Read the state under the topology's lock, None when the broker knows of no generation."""
    names = Names(topology)
    ledger = names.ledger(exchange)
    there = (ledger, names.generations(exchange))
    if not any(broker.queue_exists(channel.connection, queue) for queue in there):
        return None  # without waiting for a reader that might have it in hand
    _declare(channel, topology, exchange, ledger)
    return _take(channel, exchange, ledger, RECALL_ATTEMPTS) or read(channel, topology, exchange)


def _declare(channel: Any, topology: Topology, exchange: str, queue: str) -> None:
    quorum = entities.quorum_beside(topology, exchange)
    entities.declare_kept(channel, queue, {"x-max-length": 1}, quorum=quorum)


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
        apart = channel.connection.channel()
        try:
            apart.queue_unbind(queue, names.packs(generation.exchange), key)
        except NotFound:  # which closes the channel: read to its fence already, and deleted
            continue
        apart.close()
    channel.exchange_unbind(names.ring(generation), names.exchange(generation.exchange), "")


def _append_held(channel: Any, names: Names, state: State) -> None:
    """Append what was held to the latest of the old rings, in order."""
    held = names.held(state.current.exchange)
    old, current = names.ring(state.draining[-1]), names.ring(state.current)
    moving = Confirming(channel.connection)
    while letters := _next_held(channel, held):
        back = moving.publish([(message, old, key) for message, key, _ in letters], mandatory=True)
        # The old ring may be gone already, where this is done again after a crash.
        moving.publish([(message, current, key) for message, key in back])
        channel.basic_ack(letters[-1][2], multiple=True)
    moving.close()


def _next_held(channel: Any, held: str) -> list[tuple[Any, str, int]]:
    """Take the next held messages, each with its routing key and delivery tag."""
    taken: list[tuple[Any, str, int]] = []
    while len(taken) < APPENDED_AT_ONCE and (message := channel.basic_get(held)) is not None:
        message.properties.pop("user_id", None)  # the broker takes none but our own
        message.properties["delivery_mode"] = 2
        taken.append((message, message.delivery_info["routing_key"], message.delivery_tag))
    return taken


def fence(channel: Any, names: Names, old: Generation, queues: Sequence[str] = ()) -> None:
    """End queues of a ring, all of them by default, with a message that says so.

    Whoever is given it knows that everything before it has been given out, and once that is
    settled deletes the queue. Nothing may lead to the ring any more.
    """
    fencing = Confirming(channel.connection)
    letters = [
        (
            channel.prepare_message(
                b"", headers={FENCE: old.digest}, properties={"delivery_mode": 2}
            ),
            "",
            queue,
        )
        for queue in queues or [names.member(old, member) for member, _ in old.members]
    ]
    fencing.publish(letters)
    fencing.close()


def _write(channel: Any, names: Names, state: State) -> State:
    """Replace what is written, and return it as it is now."""
    written = replace(state, serial=state.serial + 1)
    body = json.dumps(
        {
            "current": _told(written.current),
            "draining": [_told(old) for old in written.draining],
            "settled": written.settled,
            "serial": written.serial,
            "disordered": written.disordered,
        }
    )
    writing = Confirming(channel.connection)
    for queue in (names.ledger(state.current.exchange), names.generations(state.current.exchange)):
        _declare(channel, names.topology, state.current.exchange, queue)
        message = channel.prepare_message(
            body.encode(), content_type="application/json", properties={"delivery_mode": 2}
        )
        writing.publish([(message, "", queue)])
    writing.close()
    return written


def _decode(exchange: str, body: bytes | str) -> State:
    told = json.loads(body)
    draining = tuple(_generation(exchange, old) for old in told["draining"])
    current = _generation(exchange, told["current"])
    disordered = told.get("disordered", False)
    return State(current, draining, told["settled"], told["serial"], disordered)


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
    current = {name: state.current for name, state in states(connection, topology).items()}
    found: dict[str, tuple[int, int]] = {}
    for consumer in topology.consumers.values():
        generation = current.get(consumer.queue.exchange)
        queue = names.member(generation, consumer.name) if generation else names.queue(consumer)
        found[consumer.name] = (
            broker.count(connection, queue) or 0,
            broker.count(connection, names.dead(consumer.queue)) or 0,
        )
    return found
