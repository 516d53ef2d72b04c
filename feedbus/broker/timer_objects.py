"""Declare the timer's exchanges and queues when a message needs them, and repair them.

The timer keeps delayed messages. See feedbus.broker.timer for how its exchanges and queues work
together, and for positions, digits and targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

from feedbus.broker import declarations, lookups
from feedbus.broker.connecting import queue_written_seconds
from feedbus.broker.publisher import publish_all
from feedbus.broker.timer import exchange_target, is_declared, position_digits, retry_target
from feedbus.broker.timer_layout import forward_arguments, guard_keys, has_guard, position_arguments
from feedbus.broker_names import Names
from feedbus.clock import Waiting
from feedbus.logs import EventLog
from feedbus.name_list import listed
from feedbus.topology import Exchange, Topology
from feedbus.units import counted
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import TIMER_POSITIONS, TIMER_TARGET
from feedbus.wire.outgoing_message import Moved

events = EventLog(__name__)


class Timer:
    """Declares the exchanges, queues and bindings that delayed messages need.

    Each part that publishes delayed messages, such as a bus, has one Timer object. The Timer object
    declares each exchange, queue and binding only once for each connection.

    Args:
        topology: the topology.
        waiting: makes a context manager around the wait for the broker's disk, so that the wait
            does not count for the time limit of a handler.
    """

    def __init__(self, topology: Topology, *, waiting: Waiting = nullcontext) -> None:
        """Create the timer; nothing is declared yet.

        Args:
            topology: the topology of the project.
            waiting: returns a context manager, in which the timer waits for the broker's disk.

        """
        self._names = Names(topology)
        self._waiting = waiting
        self._written_seconds = queue_written_seconds(topology)
        # The targets and positions whose objects were declared on this connection.
        self._targets: set[str] = set()
        self._positions: set[int] = set()

    def forget(self) -> None:
        """Forget what was declared, so that the next declare() declares all objects again.

        A sender calls this method before it connects: another broker may answer, without the
        objects.
        """
        self._targets.clear()
        self._positions.clear()

    def declare(self, channel: Channel, messages: Sequence[Outgoing]) -> None:
        """Declare the objects for these delayed messages, and wait until they are on the disk.

        A position is the place of a digit in the delay; it has queues of its own. The first message
        that needs a position waits for the disk. Then the exchange `written` of the position is
        declared. Later messages, also those of other processes, do not wait, because this exchange
        exists.

        Args:
            channel: a channel of the broker.
            messages: results of delay_message(), which are published after this call.

        Raises:
            UsageError: one of the queues is on the broker with other arguments.
            NotFound: a target does not exist on the broker.
        """
        names = self._names
        targets = {str(message.headers[TIMER_TARGET]) for message in messages} - self._targets
        positions = {
            position for message in messages for position in _positions_of(message)
        } - self._positions
        if not targets and not positions:
            return
        if not self._targets:  # this is the first declaration on the connection
            _declare_positions(channel, names)
        for target in sorted(targets):
            _bind(channel, names, target)
        for position in sorted(positions):
            _declare_queues(channel, names, position, position_digits(position))
        if self._written_seconds:
            self._await_written(channel, positions)
        self._targets |= targets
        self._positions |= positions

    def _await_written(self, channel: Channel, positions: Iterable[int]) -> None:
        """Wait until the queues of these positions are on the broker's disk.

        A position is the place of a digit in the delay; it has queues of its own. After the wait,
        the exchange `written` of each position is declared. If all of these exchanges exist
        already, there is no wait.
        """
        names = [self._names.timer_written(position) for position in sorted(positions)]
        new = [name for name in names if not lookups.exchange_exists(channel.connection, name)]
        if not new:
            return
        events.info(
            "timer_declared",
            "new exchanges and queues for delayed messages were declared; the first delayed message"
            f" is published in {self._written_seconds:.0f} s, when the queues are on the broker's"
            " disk",
            exchanges=",".join(new),
        )
        with self._waiting():
            channel.connection.clock.sleep(self._written_seconds)
        for name in new:
            channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)


def _positions_of(message: Outgoing) -> Iterator[int]:
    """Yield the positions of the delay's digits other than 0: the message waits at each of them."""
    for position, header in enumerate(TIMER_POSITIONS):
        digit = message.headers.get(header)
        if digit is None:  # no digit at this position, and at all higher positions
            return
        if int(digit):
            yield position


def restore(channel: Channel, names: Names) -> None:
    """Repair the timer: declare missing objects, bind targets, and send undelivered messages.

    `feedbus up`, `feedbus apply`, and a process that finds the topology missing on the broker, call
    this function after they have declared other objects. It does nothing if the project has no
    timer, because no message was ever delayed.

    A target is the queue or exchange for which a delayed message was published. It may be missing
    on the broker: for example, the queue was removed from the topology. Such a target is not bound,
    and the messages for it stay undelivered.

    Args:
        channel: a channel of the broker.
        names: the names of the topology's objects on the broker.
    """
    if not is_declared(channel.connection, names):
        return
    _declare_positions(channel, names)
    for position in range(len(TIMER_POSITIONS)):
        _declare_missing(channel, names, position)
    bound_targets = set()
    topology = names.topology
    own_exchanges = [each for each in topology.exchanges.values() if not each.external_name]
    targets = {retry_target(names, queue) for queue in topology.queues.values()}
    targets |= {exchange_target(names, exchange.name) for exchange in own_exchanges}
    for exchange in own_exchanges:
        # Some exchanges have a guard: see _declare_guard(). An old guard may have binding keys that
        # no queue of its exchange has any more. So the guard is deleted; _bind() declares it again.
        channel.exchange_delete(names.timer_guard(exchange.name))
    for target in sorted(targets):
        kind, _, name = target.partition(" ")
        exists = lookups.queue_exists if kind == "queue" else lookups.exchange_exists
        if exists(channel.connection, name):
            _bind(channel, names, target)
            bound_targets.add(target)
    _send_undelivered(channel, names, bound_targets)


def _send_undelivered(channel: Channel, names: Names, bound_targets: set[str]) -> None:
    """Send the messages of the queue `undelivered` whose targets are bound again.

    A message stays in the queue if its target is not bound, or if the broker refuses the message,
    for example because the queue of the target is full. The function does not wait until a full
    queue has room, because the consumers may only start after this call.
    """
    sent_count, refused_count, kept_tags = 0, 0, []
    refusing_targets: set[str] = set()
    # A message that is sent again may still match no queue of its target. Then it returns to the
    # end of the queue `undelivered`. So the loop only reads as many messages as the queue has at
    # the start: otherwise it would never end.
    for _ in range(lookups.count_messages(channel.connection, names.timer_undelivered) or 0):
        message = channel.basic_get(names.timer_undelivered)
        if message is None:
            break
        headers = message.properties.get("application_headers") or {}
        if headers.get(TIMER_TARGET) not in bound_targets:
            kept_tags.append(message.delivery_tag)
            continue
        moved = Moved.of(message, names.timer_due, message.delivery_info["routing_key"])
        if publish_all(channel.connection, [moved], nacked_seconds=0.0):
            kept_tags.append(message.delivery_tag)
            refusing_targets.add(headers[TIMER_TARGET])
            refused_count += 1
            continue
        channel.basic_ack(message.delivery_tag)
        sent_count += 1
    for tag in kept_tags:
        channel.basic_reject(tag, requeue=True)
    if sent_count:
        events.info(
            "undelivered_sent",
            f"{sent_count} delayed messages were sent to their queue or exchange, which was missing"
            " when they were due",
            messages=sent_count,
        )
    if refused_count:
        events.warning(
            "undelivered_refused",
            f"the broker has refused {counted(refused_count, 'delayed message')} that are due,"
            f" perhaps because a queue of their target is full: {listed(sorted(refusing_targets))};"
            " the messages are kept; make room in the queue, then run `feedbus apply`, which sends"
            " them again",
            messages=refused_count,
        )


def _declare_positions(channel: Channel, names: Names) -> None:
    """Declare the exchanges through which delayed messages pass, and connect them by bindings.

    A position is the place of a digit in the delay, and has an exchange. If the digit is 0, this
    exchange sends the message to the exchange of the next lower position, so the lowest is declared
    first. The exchange `due` follows position 0. If a message matches no binding of `due`, it goes
    to the queue `undelivered`, which is declared, too.
    """
    undelivered = names.timer_undelivered
    channel.exchange_declare(undelivered, "fanout", durable=True, auto_delete=False)
    declarations.declare_auxiliary(channel, undelivered, {}, quorum=True)
    channel.queue_bind(undelivered, undelivered, "")
    arguments = {"alternate-exchange": undelivered}
    channel.exchange_declare(
        names.timer_due, "headers", durable=True, auto_delete=False, arguments=arguments
    )
    for position, header in enumerate(TIMER_POSITIONS):
        name = names.timer_position(position)
        channel.exchange_declare(name, "headers", durable=True, auto_delete=False)
        match = {"x-match": "all", header: "0"}
        channel.exchange_bind(names.timer_position(position - 1), name, "", arguments=match)


def _declare_missing(channel: Channel, names: Names, position: int) -> None:
    """Declare the missing queues of a position, and bind all queues of the position.

    A position is the place of a digit in the delay. It has a queue for each digit except 0. If the
    broker has none of these queues, no message has needed the position, so none is declared.
    """
    queues = {names.timer_queue(position, digit): digit for digit in position_digits(position)}
    missing = [name for name in queues if not lookups.queue_exists(channel.connection, name)]
    if missing and len(missing) < len(queues):
        # The new queues are not on the disk yet, so the next message must wait again.
        channel.exchange_delete(names.timer_written(position))
        _declare_queues(channel, names, position, [queues[name] for name in missing])
    if len(missing) < len(queues):
        for name, digit in queues.items():
            _bind_queue(channel, names, position, digit, name)


def _declare_queues(channel: Channel, names: Names, position: int, digits: Iterable[int]) -> None:
    """Declare and bind queues of the timer for one position.

    A position is the place of a digit in the delay. It has a queue for each digit except 0.

    Args:
        channel: a channel to the broker.
        names: the names of the topology's objects on the broker.
        position: the position; the lowest is 0.
        digits: the digits whose queues are declared.

    """
    for digit in digits:
        name = names.timer_queue(position, digit)
        declarations.declare_auxiliary(
            channel, name, position_arguments(names, position, digit), quorum=True
        )
        _bind_queue(channel, names, position, digit, name)


def _bind_queue(channel: Channel, names: Names, position: int, digit: int, name: str) -> None:
    match = {"x-match": "all", TIMER_POSITIONS[position]: str(digit)}
    channel.queue_bind(name, names.timer_position(position), "", arguments=match)


def _declare_guard(channel: Channel, names: Names, exchange: Exchange) -> str:
    """Declare the guard of an exchange, and return the name of the guard.

    A message of the timer expires in a quorum queue, and may then match no queue of its target. The
    quorum queue keeps such a message. When it keeps more than a few of them, it forwards no other
    messages. So the message goes to the guard first. The guard has the binding keys of the target's
    queues. If a message matches none of these keys, the alternate exchange of the guard sends it to
    the queue `undelivered`.
    """
    guard = names.timer_guard(exchange.name)
    channel.exchange_declare(
        guard,
        exchange.type,
        durable=True,
        auto_delete=False,
        arguments={"alternate-exchange": names.timer_undelivered},
    )
    for key in guard_keys(names, exchange):
        channel.exchange_bind(names.exchange(exchange.name), guard, key)
    return guard


def _bind(channel: Channel, names: Names, target: str) -> None:
    """Bind a target to the exchange `due`, so that messages that are due reach the target.

    First, two kinds of targets need a declaration. An exchange for which has_guard() is true gets a
    guard, and the guard is bound instead of the exchange. A target for the retries of an external
    queue is a queue of the timer (see retry_target()), and this queue is declared.

    Raises:
        NotFound: the target does not exist on the broker.

    """
    kind, _, name = target.partition(" ")
    for queue in names.topology.queues.values():
        if queue.external_name and names.timer_forward(queue) == name:
            declarations.declare_auxiliary(channel, name, forward_arguments(queue), quorum=True)
    match = {"x-match": "all", TIMER_TARGET: target}
    for exchange in names.topology.exchanges.values():
        if kind == "exchange" and has_guard(exchange) and names.exchange(exchange.name) == name:
            name = _declare_guard(channel, names, exchange)
            break
    bind = channel.queue_bind if kind == "queue" else channel.exchange_bind
    bind(name, names.timer_due, "", arguments=match)
