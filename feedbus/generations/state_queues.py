"""The two queues in which the broker keeps the state of a ring.

The state is one message, and the broker keeps two copies of it. Consumers and publishers read the
copy in the readers' queue. A reader takes the message out of this queue for a moment. If another
reader finds no message meanwhile, it tries again. While the state changes, a reader can get an
older state. This is harmless. A consumer finds that old queues are already deleted, and reads the
state again when it receives a fence (a message that marks the end of an old queue). A publisher
makes packs for old queues. The broker returns these packs, and the publisher sends their records as
single messages.

A process that changes the state needs the latest state, so it reads the other copy, in the ledger.
Meanwhile it holds the *topology's lock*, a lock on the broker that only one process can hold at a
time.

If another program has published to the readers' queue, and no state is left in the queue, readers
use the ledger and the lock, too.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from feedbus import broker
from feedbus.broker import declarations, queue_arguments
from feedbus.broker.differences import refused_argument
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage, UsageError
from feedbus.generations.ring_state import RingState, decode, encode
from feedbus.logs import EventLog
from feedbus.topology import Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel, Connection
from feedbus.wire.constants import JSON

events = EventLog(__name__)

READ_ATTEMPTS = 100  # how often a reader looks for the message
# The number of attempts in two functions. In read_locked(), few attempts are enough: the caller
# holds the topology's lock, so usually no other process has taken the message of the ledger. In
# read(), they are enough because the caller continues without the state.
FEW_ATTEMPTS = 10
READ_PAUSE_SECONDS = 0.03  # between two attempts
# The limit of messages in the readers' queue and in the ledger. With a limit of 1, a quorum queue
# could delete the newest state. Example:
# - A reader takes the old state. Another process writes the new state. A second reader takes it.
# - The second reader requeues the new state. Then the first reader requeues the old state.
# - A quorum queue puts requeued messages behind each other. So the new state is now in front of the
#   old state. The limit is exceeded, and the queue deletes the message in front: the new state.
MAX_STATES = 100


def states(connection: Connection, topology: Topology) -> dict[str, RingState]:
    """Return the state of each ring that the broker knows, by the name of its exchange.

    A ring is missing in the result if none of READ_ATTEMPTS attempts finds its message, because
    another reader has taken the message.

    Consumers and publishers call this, without the topology's lock.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.

    Raises:
        UsageError: the readers' queue of a ring has only messages that feedbus did not write, and
            the state cannot be read from the ledger instead: the ledger has no state, or another
            process holds the topology's lock for too long.

    """
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
    """Return the state of each ring that the broker knows, by the name of its exchange.

    Unlike in states(), no ring is missing in the result. A process that was stopped while it read
    the state, for example in a debugger, keeps the message. Then states() does not find it. In this
    case, the states are read from the ledgers, under the topology's lock.

    Args:
        connection: a connection to the topology's broker.
        topology: the topology.

    Raises:
        UsageError: another process holds the lock for too long; or the ledger or the readers' queue
            of a ring has a message that feedbus did not write, and neither of them has a state.

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
    """Return the state of an exchange's ring, without the topology's lock; None if none was found.

    The state is read from the readers' queue. This queue has no message before the first switch of
    the exchange, and while another reader has taken the message.

    Args:
        channel: a channel to the broker.
        topology: the topology.
        exchange: the name of the exchange in topology.toml.

    """
    _declare(channel, topology, exchange, Names(topology).generations(exchange))
    return _read_either_queue(channel, topology, exchange, FEW_ATTEMPTS)


def read_locked(channel: Channel, topology: Topology, exchange: str) -> RingState | None:
    """Return the state of an exchange's ring; None if the exchange has no ring on the broker yet.

    The caller holds the topology's lock. The state is read from the ledger. If the ledger has no
    state, it is read from the readers' queue.

    Args:
        channel: a channel to the broker.
        topology: the topology.
        exchange: the name of the exchange in topology.toml.

    Raises:
        UsageError: the ledger or the readers' queue has a message that feedbus did not write, and
            neither of them has a state.

    """
    names = Names(topology)
    queues = (names.ledger(exchange), names.generations(exchange))
    if not any(broker.queue_exists(channel.connection, queue) for queue in queues):
        return None  # no wait, because without the queue no reader can have the message
    damaged = []
    for queue in queues:
        _declare(channel, topology, exchange, queue)
        try:
            state = _read_queue(channel, topology, exchange, queue, FEW_ATTEMPTS)
        except _DamagedError:
            damaged.append(queue)
        else:
            if state is not None:
                return state
    if damaged:
        entry = names.exchange(exchange)
        msg = (
            f"{' and '.join(damaged)}: expected the state of the ring '{exchange}', got a message"
            " that feedbus did not write, or the state of a ring whose exchange was deleted on the"
            " broker; so the current ring is not known; if a program publishes there, stop it;"
            f" delete these queues and the exchange {entry}, and run `feedbus"
            " apply`, which makes a first ring; `feedbus plan` then lists the shards of"
            " older rings that still have messages"
        )
        raise UsageError(msg)
    return None


def read_all_locked(channel: Channel, topology: Topology) -> dict[str, RingState]:
    """Read the state of each ring that has one, by the name of its exchange.

    The caller holds the topology's lock.

    Args:
        channel: a channel to the broker.
        topology: the topology.

    Raises:
        UsageError: the ledger or the readers' queue of a ring has a message that feedbus did not
            write, and neither of them has a state.

    """
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    states_by_exchange = {name: read_locked(channel, topology, name) for name in hashed}
    return {name: state for name, state in states_by_exchange.items() if state is not None}


def declare(channel: Channel, topology: Topology, exchange: str) -> None:
    """Declare the queues that keep the state of an exchange: the readers' queue and the ledger.

    Existing queues stay unchanged. switch_ring() calls this before it writes the state.

    Args:
        channel: a channel to the broker.
        topology: the topology.
        exchange: the name of the exchange in topology.toml.

    """
    names = Names(topology)
    for queue in (names.ledger(exchange), names.generations(exchange)):
        _declare(channel, topology, exchange, queue)


def repair(channel: Channel, names: Names, state: RingState) -> None:
    """Write the state again if the readers' queue does not contain it.

    write() writes to the ledger first. If it was interrupted, only the ledger has the new state.
    switch_ring() and the consumers of old queues call this.

    Args:
        channel: a channel to the broker; the caller holds the topology's lock.
        names: the names of the topology's objects on the broker.
        state: the state, from read_locked().

    """
    exchange = state.current.exchange
    try:
        readable = _read_queue(channel, names.topology, exchange, names.generations(exchange))
    except _DamagedError:
        readable = None
    if readable != state:
        write(channel, names, state)


def write(channel: Channel, names: Names, state: RingState) -> RingState:
    """Write a state with the next serial number to both queues, and return the written state.

    The state is written to the ledger first, then to the readers' queue. Then the older states are
    deleted from both. The caller holds the topology's lock.

    Args:
        channel: a channel to the broker.
        names: the names of the topology's objects on the broker.
        state: the state to write, with the serial number of the state that it replaces.

    Raises:
        BrokerOutage: another program has deleted one of the queues during this call.

    """
    written = replace(state, serial=state.serial + 1)
    body = encode(written)
    queues = (names.ledger(state.current.exchange), names.generations(state.current.exchange))
    for queue in queues:
        _declare(channel, names.topology, state.current.exchange, queue)
        message = Outgoing("", queue, body, JSON, "", content_encoding=None, stamp=None)
        if publish_all(channel.connection, [message]):
            msg = (
                f"broker: queue {queue} was deleted while the state of its ring was written; run"
                " `feedbus apply`, which declares the queue again"
            )
            raise BrokerOutage(msg)
    for queue in queues:
        _delete_replaced(channel, written, queue)
    return written


def _delete_replaced(channel: Channel, written: RingState, queue: str) -> None:
    """Delete the states at the front of a queue that are older than the state just written.

    If a reader has taken an older state at this moment, that state is not deleted. A later call of
    _read_queue() deletes it.
    """
    while (message := channel.basic_get(queue)) is not None:
        state = decode(written.current.exchange, message.body)
        if state is None or state.serial >= written.serial:
            # Usually, all older states were before this one. An older state can be behind it if a
            # reader has returned both to a quorum queue. Then _read_queue() deletes the older one.
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
    """Return the newest state in a queue, and leave it there; None if no attempt finds a message.

    Raises:
        _DamagedError: the queue has only messages that feedbus did not write.

    """
    for _ in range(attempts):
        states_by_tag: dict[int, RingState | None] = {}
        while (message := channel.basic_get(queue)) is not None:
            state = decode(exchange, message.body)
            is_valid = state is not None and _has_ring(channel, topology, state)
            states_by_tag[message.delivery_tag] = state if is_valid else None
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
        # Another reader has taken the message for a moment, or there is no message.
        channel.connection.clock.sleep(READ_PAUSE_SECONDS)
    return None


def _serial(found: tuple[int, RingState | None]) -> int:
    return -1 if found[1] is None else found[1].serial


def _has_ring(channel: Channel, topology: Topology, state: RingState) -> bool:
    """Whether the current ring of a state exists on the broker.

    A state without its ring is not valid. There are three cases: the state is so old that its ring
    was already deleted, another program has published it, or an operator has deleted the ring.
    """
    return broker.exchange_exists(channel.connection, Names(topology).ring(state.current))


def _declare(channel: Channel, topology: Topology, exchange: str, queue: str) -> None:
    quorum = queue_arguments.needs_quorum(topology, exchange)
    try:
        declarations.declare_auxiliary(channel, queue, {"x-max-length": MAX_STATES}, quorum=quorum)
    except UsageError as error:
        if refused_argument(error.__cause__) != "x-max-length":
            raise
        # feedbus 0.1 has declared the queue with another limit, which cannot be changed.
        declarations.declare_auxiliary(channel, queue, {"x-max-length": 1}, quorum=quorum)
