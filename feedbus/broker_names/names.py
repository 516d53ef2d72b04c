"""The names of a topology's objects on the broker."""

from __future__ import annotations

from dataclasses import dataclass

from feedbus.topology import Consumer, Generation, Queue, Topology

SCHEDULE = ".:schedule."  # between the topology's name and the name of a schedule
BEFORE = ".before"
WAITING = ".waiting"
PARKED = ".parked"
REMOVED = ".:removed"  # no name in a topology contains a colon
STAGED = ".:staged"
LOCK = "lock"  # the suffix of the name of the queue that locks a topology


def lock_queue(project: str) -> str:
    """Return the name of the queue on the broker that locks a topology.

    Args:
        project: the name of the topology.

    """
    return f"{project}.{LOCK}"


@dataclass(frozen=True, slots=True)
class Names:
    """The names on the broker of a topology's exchanges and queues.

    Code that uses the broker makes an object where it needs names. Except for external objects, all
    names begin with the topology's name.

    Attributes:
        topology: the topology.

    """

    topology: Topology

    def exchange(self, exchange: str) -> str:
        """Return the name of the exchange to publish to; of a hash exchange, this is the entry.

        Args:
            exchange: the name of the exchange in the topology.

        """
        known = self.topology.exchanges.get(exchange)
        external = known.external_name if known is not None else ""
        return external or f"{self.topology.name}.{exchange}"

    def ring(self, generation: Generation) -> str:
        """Return the name of the ring exchange of a generation of a hash exchange."""
        return f"{self.exchange(generation.exchange)}.{generation.digest}"

    def packs(self, exchange: str) -> str:
        """Return the name of the exchange that routes packs directly to the shards of a ring.

        Args:
            exchange: the name of the hash exchange in the topology.

        """
        return f"{self.exchange(exchange)}.packs"

    def pack_key(self, generation: Generation, consumer: str) -> str:
        """Return the routing key with which a pack reaches one shard of a ring.

        Only the keys of the current generation have bindings.

        Args:
            generation: the generation of the ring.
            consumer: the name of the shard's consumer.

        """
        return f"{generation.digest}.{consumer}"

    def held(self, exchange: str) -> str:
        """Return the name of the exchange and of its queue for held messages of a hash exchange.

        Args:
            exchange: the name of the hash exchange in the topology.

        """
        return f"{self.exchange(exchange)}.held"

    def generations(self, exchange: str) -> str:
        """Return the name of the queue with a ring's state for consumers and publishers.

        Args:
            exchange: the name of the hash exchange in the topology.

        """
        return f"{self.exchange(exchange)}.generations"

    def ledger(self, exchange: str) -> str:
        """Return the name of the queue with a ring's state for processes that change it.

        Args:
            exchange: the name of the hash exchange in the topology.

        """
        return f"{self.exchange(exchange)}.generations.ledger"

    def member(self, generation: Generation, consumer: str) -> str:
        """Return the name of the queue of one member of a ring.

        Args:
            generation: the generation of the ring.
            consumer: the name of the consumer that reads the queue.

        """
        return f"{self.topology.name}.{consumer}.{generation.digest}"

    def members(self, generation: Generation) -> list[str]:
        """Return the names of the queues of a generation's ring, in the order of its members."""
        return [self.member(generation, consumer) for consumer, _ in generation.members]

    def queue(self, consumer: Consumer) -> str:
        """Return the name of a consumer's queue that is not on a ring.

        member() returns the names of the shards' queues.

        Args:
            consumer: the consumer.

        """
        return consumer.queue.external_name or self._own(consumer)

    def unsharded(self, queue: Queue) -> str:
        """Return the name of a queue without shards that is not part of a ring.

        Args:
            queue: the queue of the topology.

        """
        return queue.external_name or f"{self.topology.name}.{queue.name}"

    def dead(self, queue: Queue) -> str:
        """Return the name of the queue for the dead letters of a queue; its shards share it."""
        return f"{self.topology.name}.{queue.name}.dead"

    def waiting(self, queue: str) -> str:
        """Return the name of the waiting queue of a queue.

        The waiting queue of an external queue belongs to the topology, and has the topology's name.

        If a queue is replaced by a new one, its messages are moved to another queue, whose name
        before() returns. The new queue and that other queue have the same waiting queue.

        Args:
            queue: the name of the queue on the broker.

        """
        for each in self.topology.queues.values():
            if each.external_name == queue:
                return f"{self.topology.name}.{each.name}{WAITING}"
        return f"{queue.removesuffix(BEFORE)}{WAITING}"

    def retry_queue(self, queue: Queue, milliseconds: int) -> str:
        """Return the name of the exchange and of its queue in which retries wait for one delay.

        The shards of a queue share them.

        Args:
            queue: the queue of the records.
            milliseconds: the delay.

        """
        return f"{self.retry_queue_prefix(queue)}{milliseconds}"

    def retry_queue_prefix(self, queue: Queue) -> str:
        """Return the common prefix of the names of a queue's retry queues."""
        return f"{self.topology.name}.{queue.name}.retry."

    @property
    def timer_prefix(self) -> str:
        """Return the common prefix of the names of the timer's objects; other names lack it.

        The timer keeps delayed messages. A message is due when its delay is over.
        """
        return f"{self.topology.name}.:timer."

    def timer_position(self, position: int) -> str:
        """Return the name of the timer's exchange for the digit at a position of a delay.

        The delay in milliseconds is a number with the base 16. A delayed message passes the
        exchanges of its digits, from the highest position to the lowest.

        Args:
            position: the position of the digit; 0 is the lowest. For a position below 0, the result
                is the exchange that gets the messages that are due.

        """
        return f"{self.timer_prefix}{position}" if position >= 0 else self.timer_due

    def timer_queue(self, position: int, digit: int) -> str:
        """Return the name of the timer's queue in which messages wait for one digit of their delay.

        Args:
            position: the position of the digit; 0 is the lowest.
            digit: the digit of the delay, from 1 to 15.

        """
        return f"{self.timer_position(position)}.{digit}"

    def timer_written(self, position: int) -> str:
        """Return the name of an exchange that marks the timer's queues of a position as stored.

        feedbus declares the exchange when the broker has had time to store the queues on its disk.
        Before that, no delayed message is published to them.

        Args:
            position: the position of a digit of a delay; 0 is the lowest.

        """
        return f"{self.timer_position(position)}.written"

    def timer_forward(self, queue: Queue) -> str:
        """Return the name of the queue through which due messages reach an external queue.

        Args:
            queue: the external queue.

        """
        return f"{self.timer_prefix}to.{queue.name}"

    def timer_guard(self, exchange: str) -> str:
        """Return the name of the guard of an exchange.

        The guard is an exchange in front of the target of a delayed message: if no queue of the
        target matches, a due message goes to the queue for undelivered messages.

        Args:
            exchange: the name of the exchange in the topology.

        """
        return f"{self.timer_prefix}for.{exchange}"

    @property
    def timer_due(self) -> str:
        """Return the name of the exchange that sends due delayed messages to their targets."""
        return f"{self.timer_prefix}due"

    @property
    def timer_undelivered(self) -> str:
        """Return the name of the exchange and of its queue for undelivered delayed messages.

        The target of these messages did not exist when they were due, or no queue matched them.
        """
        return f"{self.timer_prefix}undelivered"

    @property
    def hosts(self) -> str:
        """Return the name of the exchange for announcements of hosts.

        The names of the hosts' queues begin with the name of this exchange.
        """
        return f"{self.topology.name}.:hosts"

    def is_of_timer(self, name: str) -> bool:
        """Whether an exchange or queue is part of the timer, by its name on the broker."""
        return name.startswith(self.timer_prefix)

    def before(self, consumer: Consumer) -> str:
        """Return the common name of an exchange and its queue, for messages of a replaced queue.

        If a queue is deleted and declared again, its messages are first moved to this other queue.
        The consumer handles them before the messages of the new queue.

        Args:
            consumer: the consumer of the replaced queue.

        """
        return f"{self._own(consumer)}{BEFORE}"

    def gate(self, consumer: Consumer) -> str:
        """Return the name of the exchange that routes to a queue while it is being replaced.

        Args:
            consumer: the consumer of the queue.

        """
        return f"{self._own(consumer)}.gate"

    def gate_held(self, consumer: Consumer) -> str:
        """Return the common name of an exchange and its queue, for messages to a closed gate.

        A gate is the exchange in front of a queue that is being replaced. It is closed while its
        queue is deleted and declared again.

        Args:
            consumer: the consumer of the queue.

        """
        return f"{self.gate(consumer)}.held"

    def staged_bindings(self, exchange: str) -> str:
        """Return the name of the exchange that routes for a new exchange until it has its bindings.

        Args:
            exchange: the name of the new exchange in the topology.

        """
        return f"{self.exchange(exchange)}{STAGED}"

    def removed(self, queue: str) -> str:
        """Return the name of the exchange that marks a queue as removed from the topology.

        Args:
            queue: the name of the queue on the broker.

        """
        return f"{queue}{REMOVED}"

    def schedule(self, schedule: str) -> str:
        """Return the name of the queue that keeps the time for which a schedule was last fired.

        To fire a schedule is to publish its message.

        The name contains a colon. Names in a topology have no colon, so no other queue has the same
        name.
        """
        return f"{self.topology.name}{SCHEDULE}{schedule}"

    def parked_retries(self, retry_queue: str) -> str:
        """Return the common name of an exchange and its queue, for parked retries.

        These are the retries that wait while their retry queue is deleted and declared again.

        Args:
            retry_queue: the name of the retry queue on the broker.

        """
        return f"{retry_queue}{PARKED}"

    def _own(self, consumer: Consumer) -> str:
        """Return the name of a consumer's queue that is not external and not a shard of a ring."""
        return f"{self.topology.name}.{consumer.name}"
