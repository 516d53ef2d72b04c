"""The state of a ring on the broker: the current generation, and the draining generations.

Each of two queues contains the state, as one message. Consumers and publishers read the first
queue. While one process reads the message, another process may find no message, or an older one.
This is harmless: with an old state, consumers look for deleted queues, and publishers get a pack
back. A switch needs the exact state, so it reads the second queue, the ledger, under the topology's
lock.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from feedbus import broker
from feedbus.broker import declarations, queue_arguments
from feedbus.broker.differences import refused_argument
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage, UsageError
from feedbus.hosts.topology_file import TopologyFile
from feedbus.logs import EventLog
from feedbus.topology import Generation, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import JSON

events = EventLog(__name__)

READ_ATTEMPTS = 100  # how often a reader looks for the message
LOCKED_ATTEMPTS = 10  # fewer: with the lock, only an earlier reader can have the message
READ_PAUSE_SECONDS = 0.03
# A quorum queue puts returned messages back in the order of their return, and drops its first
# message if there are too many. If the queue had room for only one message, a reader could return
# the old state after another reader has returned the newer state. Then the old state would replace
# the newer one permanently.
MAX_STATES = 100


@dataclass(frozen=True, slots=True)
class RingState:
    """The state of an exchange's ring.

    Attributes:
        current: the generation to which the entry sends messages.
        draining: earlier generations whose queues are not deleted yet.
        switch_complete: whether the switch to the current generation is complete. Until then,
            draining generations may still get records.
        serial: the number of this state; each change of the state increases it.
        disordered: whether a restarted broker has bound the shards of the current ring in another
            order than feedbus, so that keys reach other shards.
        source: the topology file that asked for the current ring.
        replaced: the digests of earlier rings.
        disordered_draining: the numbers of draining generations that were disordered.

    """

    current: Generation
    draining: tuple[Generation, ...] = ()
    switch_complete: bool = True
    serial: int = 0
    disordered: bool = False
    source: TopologyFile | None = None
    replaced: tuple[str, ...] = ()
    disordered_draining: tuple[int, ...] = ()


def states(connection: Connection, topology: Topology) -> dict[str, RingState]:
    """Return the state of each ring that the broker knows, without declaring anything."""
    names = Names(topology)
    states_by_exchange: dict[str, RingState] = {}
    channel = connection.channel()
    for exchange in topology.exchanges.values():
        if exchange.hashed and broker.queue_exists(connection, names.generations(exchange.name)):
            state = _read_either_queue(channel, topology, exchange.name, READ_ATTEMPTS)
            if state is not None:
                states_by_exchange[exchange.name] = state
    channel.close()
    return states_by_exchange


def exact_states(connection: Connection, topology: Topology) -> dict[str, RingState]:
    """Return the state of each ring; unlike in states(), no ring is missing in the result.

    A stopped process, for example in a debugger, can keep the message that all readers need. So
    states() finds no state. Then the states are read from the ledger, under the topology's lock.

    Raises:
        UsageError: another process holds the lock for too long.

    """
    found = states(connection, topology)
    names = Names(topology)
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    if all(
        name in found or not broker.queue_exists(connection, names.generations(name))
        for name in hashed
    ):
        return found
    with broker.locked(connection, topology):
        channel = connection.channel()
        found = read_all_locked(channel, topology)
        channel.close()
    return found


def read(channel: Channel, topology: Topology, exchange: str) -> RingState | None:
    """Return the state of an exchange, or None if the broker has no generation of it yet."""
    _declare(channel, topology, exchange, Names(topology).generations(exchange))
    return _read_either_queue(channel, topology, exchange, LOCKED_ATTEMPTS)


def read_locked(channel: Channel, topology: Topology, exchange: str) -> RingState | None:
    """Read the state under the topology's lock; None if the broker has no generation yet.

    Raises:
        UsageError: neither the ledger nor the readers' queue has a state that feedbus has written.

    """
    names = Names(topology)
    has_generation = (names.ledger(exchange), names.generations(exchange))
    if not any(broker.queue_exists(channel.connection, queue) for queue in has_generation):
        return None  # no wait, because without the queue no reader can have the message
    damaged = []
    for queue in has_generation:
        _declare(channel, topology, exchange, queue)
        try:
            state = _read_queue(channel, topology, exchange, queue, LOCKED_ATTEMPTS)
        except _DamagedError:
            damaged.append(queue)
        else:
            if state is not None:
                return state
    if damaged:
        entry = names.exchange(exchange)
        msg = (
            f"{' and '.join(damaged)}: expected the state of the ring '{exchange}', got a message"
            f" that feedbus did not write, so the current ring is not known; stop the program that"
            f" publishes there, delete these queues and the exchange {entry}, and run `feedbus"
            " apply`, which makes a first ring; `feedbus plan` then lists the shards of"
            " older rings that still have messages"
        )
        raise UsageError(msg)
    return None


def read_all_locked(channel: Channel, topology: Topology) -> dict[str, RingState]:
    """Read the state of each ring that has one, under the topology's lock; see read_locked()."""
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    states_by_exchange = {name: read_locked(channel, topology, name) for name in hashed}
    return {name: state for name, state in states_by_exchange.items() if state is not None}


def declare(channel: Channel, topology: Topology, exchange: str) -> None:
    """Declare the queues that keep the state of an exchange."""
    names = Names(topology)
    for queue in (names.ledger(exchange), names.generations(exchange)):
        _declare(channel, topology, exchange, queue)


def repair(channel: Channel, names: Names, state: RingState) -> None:
    """Write the state again if readers cannot read it; the caller holds the topology's lock."""
    exchange = state.current.exchange
    try:
        readable = _read_queue(channel, names.topology, exchange, names.generations(exchange))
    except _DamagedError:
        readable = None
    if readable != state:
        write(channel, names, state)


def write(channel: Channel, names: Names, state: RingState) -> RingState:
    """Replace the state, and return the new one."""
    written = replace(state, serial=state.serial + 1)
    body = json.dumps(
        {
            "current": _as_json(written.current),
            "draining": [_as_json(old) for old in written.draining],
            "settled": written.switch_complete,
            "serial": written.serial,
            "disordered": written.disordered,
            "source": None if written.source is None else astuple(written.source),
            "replaced": written.replaced,
            "scattered": written.disordered_draining,
        }
    )
    queues = (names.ledger(state.current.exchange), names.generations(state.current.exchange))
    for queue in queues:
        _declare(channel, names.topology, state.current.exchange, queue)
        message = Outgoing("", queue, body.encode(), JSON, "", content_encoding=None, stamp=None)
        if publish_all(channel.connection, [message]):
            msg = f"broker: queue {queue} was deleted while the state of its ring was written"
            raise BrokerOutage(msg)
    for queue in queues:
        _delete_replaced(channel, written, queue)
    return written


def _delete_replaced(channel: Channel, written: RingState, queue: str) -> None:
    """Delete older states; a state that a reader has taken is deleted at the next read."""
    while (message := channel.basic_get(queue)) is not None:
        state = _decode(written.current.exchange, message.body)
        if state is None or state.serial >= written.serial:
            # Older states come first, except a state that a reader has returned to a quorum queue.
            channel.basic_reject(message.delivery_tag, requeue=True)
            return
        channel.basic_ack(message.delivery_tag)


class _DamagedError(Exception):
    """A queue contains messages, but none that feedbus has written."""


def _read_either_queue(
    channel: Channel, topology: Topology, exchange: str, attempts: int
) -> RingState | None:
    """Return the state from the readers' queue or, if that is damaged, from the ledger."""
    queue = Names(topology).generations(exchange)
    with contextlib.suppress(_DamagedError):
        return _read_queue(channel, topology, exchange, queue, attempts)
    events.error(
        "state_damaged",
        f"queue {queue} contains a message that feedbus did not write; feedbus reads the state of"
        f" exchange {exchange} from the copy in its ledger queue instead; stop the program that"
        " publishes to that queue, then run `feedbus apply`, which repairs the queue",
        exchange=exchange,
        queue=queue,
    )
    with broker.locked(channel.connection, topology):
        return read_locked(channel, topology, exchange)


def _read_queue(
    channel: Channel, topology: Topology, exchange: str, queue: str, attempts: int = READ_ATTEMPTS
) -> RingState | None:
    """Return the state in a queue, and leave its message there; None if there is no message.

    Raises:
        _DamagedError: the queue has only messages that feedbus did not write.

    """
    for _ in range(attempts):
        states_by_tag: dict[int, RingState | None] = {}
        while (message := channel.basic_get(queue)) is not None:
            state = _decode(exchange, message.body)
            own_states = state is not None and _has_ring(channel, topology, state)
            states_by_tag[message.delivery_tag] = state if own_states else None
        tag, latest = max(states_by_tag.items(), key=_serial, default=(0, None))
        for each in states_by_tag:
            # If there is a state, older states and foreign messages are deleted. Otherwise all
            # messages stay, so that an operator can look at them.
            if latest is None or each == tag:
                channel.basic_reject(each, requeue=True)
            else:
                channel.basic_ack(each)
        if latest is not None:
            return latest
        if states_by_tag:
            raise _DamagedError
        # Another reader has received the message for a moment, or there is none.
        channel.connection.clock.sleep(READ_PAUSE_SECONDS)
    return None


def _serial(found: tuple[int, RingState | None]) -> int:
    return -1 if found[1] is None else found[1].serial


def _has_ring(channel: Channel, topology: Topology, state: RingState) -> bool:
    """Whether the current ring exists: other programs may publish a state, but declare no ring."""
    return broker.exchange_exists(channel.connection, Names(topology).ring(state.current))


def _declare(channel: Channel, topology: Topology, exchange: str, queue: str) -> None:
    quorum = queue_arguments.needs_quorum(topology, exchange)
    try:
        declarations.declare_auxiliary(channel, queue, {"x-max-length": MAX_STATES}, quorum=quorum)
    except UsageError as error:
        if refused_argument(error.__cause__) != "x-max-length":
            raise
        # feedbus 0.1 declared the queue in this way.
        declarations.declare_auxiliary(channel, queue, {"x-max-length": 1}, quorum=quorum)


def _decode(exchange: str, body: bytes | str) -> RingState | None:
    """Return the state that a body contains, or None."""
    try:
        stored = json.loads(body)
        return RingState(
            current=_generation(exchange, stored["current"]),
            draining=tuple(_generation(exchange, old) for old in stored["draining"]),
            switch_complete=bool(stored["settled"]),
            serial=int(stored["serial"]),
            disordered=bool(stored.get("disordered", False)),
            source=_source(stored.get("source")),
            replaced=tuple(map(str, stored.get("replaced", ()))),
            disordered_draining=tuple(map(int, stored.get("scattered", ()))),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def encode_generation(generation: Generation) -> bytes:
    """Return a generation as the body of a message."""
    return json.dumps(_as_json(generation)).encode()


def decode_generation(exchange: str, body: bytes | str) -> Generation | None:
    """Return the generation that a body contains, or None."""
    try:
        return _generation(exchange, json.loads(body))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _as_json(generation: Generation) -> list[Any]:
    shape = [generation.shape] if generation.shape else []
    return [generation.number, generation.members, *shape]


def _source(stored: Sequence[Any] | None) -> TopologyFile | None:
    if stored is None:
        return None
    host, path, digest, modified = stored
    return TopologyFile(str(host), str(path), str(digest), float(modified))


def _generation(exchange: str, stored: Sequence[Any]) -> Generation:
    number, members, *shape = stored
    pairs = tuple((str(name), int(weight)) for name, weight in members)
    return Generation(exchange, pairs, int(number), *map(str, shape))
