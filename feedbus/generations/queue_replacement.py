"""Replace a queue by a queue with other arguments; no message is lost, the order is kept.

A queue's arguments cannot be changed, so the queue has to be deleted and declared again, while
messages arrive. An additional exchange, the *gate*, is put in front of the queue. While the gate is
closed, messages that arrive go to the alternate exchange of the gate, and are held in the queue
`gate.held`:

    exchange ──▶ gate ──▶ queue            the gate is open: the queue is bound to the gate
    exchange ──▶ gate ──▶ gate.held        the gate is closed: the queue is not bound to the gate

While the gate is closed, the messages of the old queue are moved to another queue, named `before`.
The old queue is deleted, and the new one is declared. Then the gate is opened, and the held
messages are appended to `before`. After the replacement, a consumer first reads `before`, up to its
*fence*, a message that marks the end of a queue. Then the consumer reads the new queue.

During the replacement, the consumers of the queue are stopped, and the caller holds the topology's
lock. Retries of the queue are *parked*: they are in another queue, until unpark() moves them back
(retry_queue_replacement.py). Every step can be repeated, so after a crash the replacement is
carried out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from feedbus import broker
from feedbus.broker import declarations, inventory, queue_arguments
from feedbus.broker.differences import find_differences
from feedbus.broker.inventory import Inventory
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Derived, Names, Role, derived
from feedbus.clock import Clock
from feedbus.errors import UsageError
from feedbus.generations import queue_deletion
from feedbus.generations.leaving_consumers import wait_for_consumers_to_leave
from feedbus.generations.probes import fence_message
from feedbus.generations.retry_queue_replacement import park
from feedbus.generations.switch import exit_after_step
from feedbus.topology import Consumer, Topology
from feedbus.wire.amqp_protocols import Connection

# The queue `before` gets these arguments of the new queue.
KEPT_ARGUMENTS = (
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-single-active-consumer",
)


def has_other_arguments(topology: Topology, consumer: Consumer, seen: Inventory) -> bool:
    """Whether the queue of a consumer exists with other arguments; False for a shard.

    If the result is True, the queue has to be replaced: `feedbus plan` shows the replacement, and
    `feedbus apply` carries it out. For shards, a switch declares a new ring instead.

    Args:
        topology: the topology, which declares the arguments.
        consumer: the consumer.
        seen: the objects that the broker has.

    """
    names = Names(topology)
    seen_queue = seen.queues.get(names.queue(consumer))
    wanted = queue_arguments.declared_arguments(names, consumer.queue)
    return seen_queue is not None and bool(find_differences(seen_queue.arguments, wanted))


def is_begun(topology: Topology, consumer: Consumer, seen: Inventory) -> bool:
    """Whether a replacement of a consumer's queue was begun, but not finished.

    During a replacement, the broker has the gate of the queue: the exchange in front of the queue.
    If the result is True, `feedbus up` and `feedbus apply` finish the replacement.

    Args:
        topology: the topology.
        consumer: the consumer.
        seen: the objects that the broker has.

    """
    return Names(topology).gate(consumer) in seen.exchanges


@dataclass(slots=True)
class QueueReplacement:
    """The replacement of a consumer's queue by a queue with other arguments.

    `feedbus up` and `feedbus apply` create one QueueReplacement object for each such queue, and
    call carry_out().

    Attributes:
        connection: a connection to the topology's broker.
        topology: the topology; it declares the new arguments of the queue.
        consumer: the consumer of the queue.

    """

    connection: Connection
    topology: Topology
    consumer: Consumer

    def carry_out(self) -> None:
        """Replace the queue, or finish a replacement that was interrupted.

        No message is lost, and the order is kept. The caller holds the topology's lock, and has
        stopped the consumers of the queue.

        Raises:
            UsageError: a consumer still uses the queue.

        """
        seen = inventory.read_inventory(self.topology)
        if has_other_arguments(self.topology, self.consumer, seen):
            self._await_consumers()
            self._put_gate(seen)
            exit_after_step("gate-put")
            self._close_gate()
            exit_after_step("gate-closed")
            for retry_queue in self._retry_queues(seen):
                quorum = self.consumer.queue.type == "quorum"
                park(self.connection, self.topology, retry_queue, quorum=quorum)
            exit_after_step("retries-parked")
            self._empty()
            exit_after_step("queue-deleted")
        # If an interrupted replacement has deleted the queue already, only these steps are left.
        if (
            Names(self.topology).gate(self.consumer)
            in inventory.read_inventory(self.topology).exchanges
        ):
            self._open_gate()
            exit_after_step("gate-opened")
            self._append_held()
            exit_after_step("held-appended")
            self._remove_gate()
            exit_after_step("gate-gone")

    @property
    def _clock(self) -> Clock:
        return broker.clock(self.topology)

    @property
    def _names(self) -> Names:
        return Names(self.topology)

    @property
    def _queue(self) -> str:
        return self._names.queue(self.consumer)

    def _await_consumers(self) -> None:
        """Wait until the queue has no consumer, so that all unacknowledged messages are back in it.

        Raises:
            UsageError: the queue still has a consumer after LEAVE_SECONDS.

        """
        if wait_for_consumers_to_leave(self.connection, self._clock, [self._queue]):
            msg = (
                f"queue {self._queue} cannot be replaced, because it still has consumers: stop them"
                " (`feedbus down` on their hosts), then run `feedbus apply` again"
            )
            raise UsageError(msg)

    def _put_gate(self, seen: Inventory) -> None:
        channel = self.connection.channel()
        gate, held_name = self._names.gate(self.consumer), self._names.gate_held(self.consumer)
        before = self._names.before(self.consumer)
        wanted_arguments = queue_arguments.declared_arguments(self._names, self.consumer.queue)
        kept_arguments = {
            name: wanted_arguments[name] for name in KEPT_ARGUMENTS if name in wanted_arguments
        }
        quorum = self.consumer.queue.type == "quorum"
        for name, arguments in ((held_name, {}), (before, kept_arguments)):
            channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)
            declarations.declare_auxiliary(channel, name, arguments, quorum=quorum)
            channel.queue_bind(name, name, "")
        alternate = {"alternate-exchange": held_name}
        channel.exchange_declare(
            gate, "fanout", durable=True, auto_delete=False, arguments=alternate
        )
        direct = [one for one in seen.bound_to("queue", self._queue) if one.source != gate]
        # A direct binding leads from another exchange than the gate to the queue. An interrupted
        # call may have put and closed the gate already. Then the queue has no direct bindings, and
        # the gate is bound to the exchange. In this case the gate stays closed.
        if direct or not seen.bound_to("exchange", gate):
            # Until the direct bindings are removed, a message has two ways to the queue: a direct
            # binding, and the gate. But a broker puts a message into a queue only once, even if
            # several bindings match.
            channel.queue_bind(self._queue, gate, "")
        exchange = self._names.exchange(self.consumer.queue.exchange)
        for key in queue_arguments.binding_keys(self.consumer.queue):
            channel.exchange_bind(gate, exchange, key)
        for one in direct:
            channel.queue_unbind(self._queue, one.source, one.key)
        channel.close()

    def _close_gate(self) -> None:
        channel = self.connection.channel()
        channel.queue_unbind(self._queue, self._names.gate(self.consumer), "")
        channel.close()
        self._await_arrivals()

    def _await_arrivals(self) -> None:
        """Wait until messages that the broker has routed already have arrived in their queues."""
        self._clock.sleep(broker.in_flight_seconds(self.topology))

    def _retry_queues(self, seen: Inventory) -> Iterator[str]:
        # The retry queues send their messages to the queue by its name. While the queue does not
        # exist, these messages would be lost. So the retries are parked before the queue is
        # deleted.
        return (name for name in seen.queues if derived(name) == Derived(self._queue, Role.RETRY))

    def _empty(self) -> None:
        """Move the messages of the old queue to the queue `before`, and delete the old queue."""
        before = self._names.before(self.consumer)
        # An attempt fails if the queue has a consumer, or if it has no leader. For a queue without
        # a leader, the broker reports no consumers. Then _await_consumers() returns at once, and
        # the loop tries again until the queue has a leader.
        while queue_deletion.try_to_move_and_delete(
            self.connection, self.topology, self._queue, before
        ):
            self._await_consumers()

    def _open_gate(self) -> None:
        channel = self.connection.channel()
        declarations.declare_queue(channel, self._names, self.consumer, self._queue)
        channel.queue_bind(self._queue, self._names.gate(self.consumer), "")
        channel.close()
        self._await_arrivals()

    def _append_held(self) -> None:
        """Append the held messages to `before`; then delete `before` if empty, or add a fence."""
        before, held_name = (
            name(self.consumer) for name in (self._names.before, self._names.gate_held)
        )
        channel = self.connection.channel()
        channel.exchange_delete(held_name)
        if broker.queue_exists(self.connection, held_name):
            queue_deletion.move_and_delete(self.connection, self.topology, held_name, before)
        channel.exchange_delete(before)
        if queue_deletion.remove_queue(self.connection, self.topology, before):
            publish_all(channel.connection, [fence_message(before, self._queue)])
        channel.close()

    def _remove_gate(self) -> None:
        channel = self.connection.channel()
        exchange = self._names.exchange(self.consumer.queue.exchange)
        for key in queue_arguments.binding_keys(self.consumer.queue):
            channel.queue_bind(self._queue, exchange, key)
        # The gate is deleted last, because it marks a replacement that is not complete.
        channel.exchange_delete(self._names.gate(self.consumer))
        channel.close()
