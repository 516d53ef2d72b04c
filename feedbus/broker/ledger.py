"""What the broker itself keeps of a ring: which generation is current, and which still drain.

A queue of length one holds a message that names them, oldest first. Whoever changes it holds the
topology's lock, and reads it from a second such queue, the ledger: a reader has the first in hand
for a moment, so that another may find nothing there, or what was true before. Readers may err so,
since an old state leads to queues that are gone or to packs that come back; whoever switches may
not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from kombu.connection import Connection

from feedbus import broker
from feedbus.broker import entities
from feedbus.broker.confirming import Confirming
from feedbus.broker.names import Names
from feedbus.topology import Generation, Topology
from feedbus.wire.constants import JSON

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


def states(connection: Connection, topology: Topology) -> dict[str, State]:
    """Return the state of each ring that the broker knows of, declaring nothing."""
    names = Names(topology)
    found: dict[str, State] = {}
    channel = connection.channel()
    for exchange in topology.exchanges.values():
        if exchange.hashed and broker.queue_exists(connection, names.generations(exchange.name)):
            state = _peek(channel, topology, exchange.name)
            if state is not None:
                found[exchange.name] = state
    channel.close()
    return found


def read(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Return the state of an exchange, None when the broker knows of no generation yet."""
    queue = Names(topology).generations(exchange)
    _declare(channel, topology, exchange, queue)
    return _take(channel, exchange, queue, RECALL_ATTEMPTS)


def recall(channel: Any, topology: Topology, exchange: str) -> State | None:
    """Read the state under the topology's lock, None when the broker knows of no generation."""
    names = Names(topology)
    ledger = names.ledger(exchange)
    there = (ledger, names.generations(exchange))
    if not any(broker.queue_exists(channel.connection, queue) for queue in there):
        return None  # without waiting for a reader that might have it in hand
    _declare(channel, topology, exchange, ledger)
    return _take(channel, exchange, ledger, RECALL_ATTEMPTS) or read(channel, topology, exchange)


def write(channel: Any, names: Names, state: State) -> State:
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
            body.encode(), content_type=JSON, properties={"delivery_mode": 2}
        )
        writing.publish([(message, "", queue)])
    writing.close()
    return written


def _peek(channel: Any, topology: Topology, exchange: str) -> State | None:
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


def _declare(channel: Any, topology: Topology, exchange: str, queue: str) -> None:
    quorum = entities.quorum_beside(topology, exchange)
    entities.declare_kept(channel, queue, {"x-max-length": 1}, quorum=quorum)


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
