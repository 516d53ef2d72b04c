"""The waiting queues of one consumer: records wait there for earlier records of their keys."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.dispatch.ordered_retries import Arrival, OrderedRetries, Waiting
from feedbus.errors import BrokerOutage, UsageError
from feedbus.generations import predecessors
from feedbus.generations.drain import since
from feedbus.generations.predecessors import Predecessors
from feedbus.logs import EventLog
from feedbus.ring import Ring
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import Consumer, Generation, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.outgoing_message import Moved

events = EventLog(__name__)

BESIDE = ".waiting"  # at the end of a subscription's tag
GO_ON_SHARE = 0.9  # share of the limit below which a holding consumer continues
COUNT_SECONDS = 0.2  # the number of waiting records is written at most this often
LEAST_CHAIN = 2  # the generation of an ending queue, and a newer one
MOST_MOVED = 50_000  # to one waiting queue: its reader gets at most PREFETCH
RENEWED_SECONDS = 300.0  # older deliveries are returned, and delivered again
RENEWED_SHARE = 0.5  # share of the broker's consumer timeout, if that is shorter


class WaitingQueues:
    """The waiting queues that one consumer reads in addition to its queues."""

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        retries: OrderedRetries,
        *,
        report: Callable[[str], None],
        count: Callable[[int], None],
    ) -> None:
        """Start without queues.

        Args:
            topology: the topology of the system.
            consumer: the consumer of the records.
            retries: knows the records that wait.
            report: called with the reason when the consumer holds, and with "" when it continues.
            count: called with the number of waiting records when it has changed.

        """
        self.noticed = False  # whether a notice has arrived that the ring has changed
        self._report = report
        self._count = count
        self._counted, self._counted_at = 0, -math.inf
        self._topology = topology
        self._clock = broker.clock(topology)
        self._names = Names(topology)
        self._consumer = consumer
        self._retries = retries
        self._open: dict[str, WaitingQueue] = {}  # by the tag of the queue's subscription
        self._full = False
        self._renewed_at = self._clock.monotonic()

    def __len__(self) -> int:
        """Count the waiting records."""
        return len(self._retries.records)

    def follow(self, old_queues: Predecessors | None) -> None:
        """Let records wait for these old queues."""
        self._retries.predecessors = old_queues

    @property
    def awaited(self) -> Collection[str]:
        """The old queues that records wait for."""
        return self._retries.records.awaited

    @property
    def behind_old_queues(self) -> int:
        """How many records wait for old queues."""
        return self._retries.records.behind_old_queues

    def put_probes(self) -> None:
        """Publish a probe to each waiting queue."""
        for opened in self._open.values():
            opened.probes.put()

    def probed(self) -> bool:
        """Return whether all probes have returned: what was moved before them has arrived."""
        returned = [opened.probed() for opened in self._open.values()]  # a lost one is published
        return all(returned)

    def run_behind(self, queues: Collection[str]) -> None:
        """Let the records run that wait only for these queues, which were deleted."""
        self._retries.records.ended(queues)

    def _notice(self) -> None:
        self.noticed = True

    def open(
        self,
        connection: Connection,
        queue: str,
        tag: str,
        on_cancel: Callable[[str], None],
        turn: int = 0,
    ) -> bool:
        """Read the waiting queue of a queue; return False if another consumer does.

        Args:
            connection: the connection of the consumer.
            queue: the queue to read.
            tag: the tag of the subscription to the queue.
            on_cancel: called with that tag when the waiting queue is deleted, or moved.
            turn: the number of the queue's generation.

        """
        name = self._names.waiting(queue)
        if tag not in self._open:
            channel = connection.channel()
            channel.queue_declare(queue, passive=True)  # NotFound if it does not exist
            declarations.declare_waiting(channel, self._consumer.queue, name)
            channel.close()
            opened = WaitingQueue.open(
                connection,
                name,
                f"{tag}{BESIDE}",
                self._retries,
                lambda _: on_cancel(tag),
                turn,
                self._notice,
            )
            if opened is None:
                return False
            self._open[tag] = opened
            if len(self):
                events.info(
                    "waiting_read",
                    f"{self._consumer.name}: {len(self)} records wait for an earlier record of"
                    " their key, or for their retry",
                    consumer=self._consumer.name,
                    queue=name,
                    records=len(self),
                )
        self._retries.subscribed(tag, name, turn)
        return True

    def delete(self, tag: str) -> None:
        """Delete the waiting queue of a queue that another consumer has just ended."""
        opened = self._open.get(tag)
        if opened is not None and not self._retries.records.of_queue(opened.queue):
            opened.channel.queue_delete(opened.queue)
        self.close(tag)

    def close(self, tag: str = "") -> None:
        """Stop reading the waiting queue of a subscription, or all of them."""
        for each in [tag] if tag else [*self._open]:
            opened = self._open.pop(each, None)
            if opened is not None:
                opened.close()
        if not self._open:
            self.forget()

    def forget(self) -> None:
        """Forget all waiting records, because the connection is lost."""
        for opened in self._open.values():
            opened.closed = True
        self._open.clear()
        self._retries.forget()
        self._look()
        if self._full:
            self._full = False
            self._report("")

    def seconds_until_due(self) -> float:
        """Return in how many seconds a record may run; infinity if none waits."""
        return max(self._retries.seconds_until_due(), 0.0) if len(self) else math.inf

    def full(self) -> bool:
        """Whether the limit of waiting records is reached; changes are logged."""
        if not self._counted and not len(self):
            return False
        self._look()
        limit = self._consumer.queue.waiting_limit
        # Those behind old queues do not count: the consumer must go on to read the old queues.
        count = len(self) - self.behind_old_queues
        if count >= limit and not self._full:
            self._full = True
            reason = (
                f"{count} records wait for earlier records of their keys, and waiting_limit is"
                f" {limit}; it continues when enough of them are handled or have become dead"
                " letters"
            )
            events.warning(
                "waiting_limit",
                f"{self._consumer.name} holds: {reason}",
                consumer=self._consumer.name,
                records=count,
            )
            self._report(reason)
        elif self._full and count <= limit * GO_ON_SHARE:
            self._full = False
            events.info(
                "waiting_resumed",
                f"{self._consumer.name} continues: only {count} records wait now",
                consumer=self._consumer.name,
                records=count,
            )
            self._report("")
        return self._full

    def take(self, most: int, alone: Callable[[str], bool]) -> list[Delivery]:
        """Return waiting records that run now; see OrderedRetries.take()."""
        return self._retries.take(most, alone)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Make waiting records that were taken wait again."""
        self._retries.put_back(deliveries)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge the deliveries of waiting queues that were handled."""
        settled: defaultdict[str, list[Delivery]] = defaultdict(list)
        for delivery in self._retries.settled(deliveries):
            settled[delivery.consumer_tag.removesuffix(BESIDE)].append(delivery)
        for tag, some in settled.items():
            self._open[tag].acknowledge(some)

    @property
    def unsettled(self) -> bool:
        """Whether a waiting queue may contain an unknown message, because of an outage."""
        return self._retries.unsettled or self._retries.abandoned

    def _look(self) -> None:
        """Report how many records wait, if that has changed."""
        now = self._clock.monotonic()
        if len(self) != self._counted and (not len(self) or now > self._counted_at + COUNT_SECONDS):
            self._counted, self._counted_at = len(self), now
            self._count(len(self))

    def renew(self, timeout_seconds: float) -> None:
        """Return old deliveries to the broker, which delivers them again; called often.

        Args:
            timeout_seconds: the broker's consumer timeout; infinity if it is not known.

        """
        self._look()
        now, age = self._clock.monotonic(), min(RENEWED_SECONDS, timeout_seconds * RENEWED_SHARE)
        if now < self._renewed_at + age / 2:
            return
        self._renewed_at = now
        for opened in self._open.values():
            opened.renew(now - age / 2)

    def move_on(self, connection: Connection, queue: str, tag: str) -> bool:
        """Move the waiting records of an ending queue to the shards that own their keys now.

        Each record is moved to the waiting queue of the shard that owns its key in the current
        generation. It does not run there before the old queue is deleted. If there are too many
        records for it, or if a queue between the two generations can still have records of its key,
        they are handled here first. If all keys wait for all old queues, the records are moved to
        the next generation, which is not read yet.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue.
            tag: the tag of the subscription to the queue.

        Returns:
            Whether nothing waits for the queue any more.

        """
        name = self._names.waiting(queue)
        if tag in self._open and not self._open[tag].is_complete():
            return False
        records = self._retries.records.of_queue(name)
        if not records:
            return True
        exchange = self._consumer.queue.exchange
        if {"hash-header", "hash-property"} & {*self._topology.exchanges[exchange].arguments}:
            return False  # the ring hashes another value than the routing key
        # Others have failed again and are being sent to this queue, or a handler has them.
        arrivals = [each.arrival for each in records if each.arrival and not each.taken]
        if len(arrivals) < len(records):
            return False
        try:
            # Under the lock, the current generation remains the current one. So none of its queues
            # can be deleted before the records are there.
            with broker.locked(connection, self._topology):
                return self._move(connection, queue, tag, records, arrivals)
        except UsageError:  # a switch is in progress
            return False

    def _move(
        self,
        connection: Connection,
        queue: str,
        tag: str,
        records: Sequence[Waiting],
        arrivals: Sequence[Arrival],
    ) -> bool:
        """Move records to the current generation; see move_on()."""
        channel = connection.channel()
        exchange = self._consumer.queue.exchange
        chain = since(channel, self._topology, exchange, queue)
        if not predecessors.known(self._topology, self._consumer.queue):
            chain = chain[:2]
        if len(chain) < LEAST_CHAIN or not chain[-1].members:
            channel.close()
            return False
        *old, generation = chain
        keys = [arrival.delivery.original_key for arrival in arrivals]
        between = {owner for each in old[1:] for owner in self._owners(each, keys).values()}
        if any(broker.queue_exists(connection, owner) for owner in between):
            channel.close()
            return False
        owners = self._owners(generation, keys)
        targets = [self._names.waiting(owners[key]) for key in keys]
        for target in dict.fromkeys(targets):
            declarations.declare_waiting(channel, self._consumer.queue, target)
        channel.close()
        # The broker counts no message that a reader has received. So several old queues whose keys
        # move to one shard share the room there.
        queues = sum(len(each.members) for each in old)
        most = MOST_MOVED // math.ceil(queues / len(generation.members))
        for target, count in Counter(targets).items():
            if (broker.count(connection, target) or 0) + count > most:
                return False  # records are handled here until there is room
        moved = [
            Moved.of(arrival.message, "", target)
            for arrival, target in zip(arrivals, targets, strict=True)
        ]
        refusals = publish_all(connection, moved)
        if refusals:
            msg = f"broker: {len(refusals)} waiting records cannot be moved: {refusals[0].reason}"
            raise BrokerOutage(msg)
        # From the end: if a crash interrupts the move, the first records of each key are still
        # here.
        self._open[tag].acknowledge([arrival.delivery for arrival in reversed(arrivals)])
        for record in records:
            self._retries.records.left(record)
        events.info(
            "waiting_moved",
            f"{self._consumer.name}: {len(records)} waiting records were moved to generation"
            f" {generation.digest}",
            consumer=self._consumer.name,
            queue=queue,
            records=len(records),
        )
        return True

    def _owners(self, generation: Generation, keys: Iterable[str]) -> dict[str, str]:
        """Return the queue of a generation that owns each of these routing keys."""
        if not generation.members:
            return {}
        ring = Ring.of(generation.members)
        return {key: self._names.member(generation, ring.route(key)) for key in {*keys}}
