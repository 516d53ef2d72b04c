"""The waiting queues of one consumer: the failed records, and the later records of their keys."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker_names import Names
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.generations.predecessors import Predecessors
from feedbus.logs import EventLog
from feedbus.metrics import WaitingCounts
from feedbus.runner.waiting_limit import RetryLimit
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.runner.waiting_record_mover import WaitingRecordMover
from feedbus.topology import Consumer, Topology
from feedbus.units import counted
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection

events = EventLog(__name__)

WAITING_SUFFIX = ".waiting"  # at the end of the consumer tag of a subscription to a waiting queue
COUNT_SECONDS = 0.5  # the shortest time between two counts of the waiting records
# A record can wait for longer than the broker's consumer timeout. So renew() returns each delivery
# of a waiting queue to the broker before the delivery is too old, and the broker delivers the
# message again. The greatest age of a delivery is RENEWED_SECONDS, or RENEWED_SHARE of the broker's
# consumer timeout if that is shorter.
RENEWED_SECONDS = 300.0
RENEWED_SHARE = 0.5


class WaitingQueues:
    """Reads the waiting queues of one consumer, in addition to its queues.

    After a change of the ring, a consumer also reads old queues, those of older generations. Each
    old queue has a waiting queue, too.

    A run of a consumer whose queue has `order_by` has one WaitingQueues object, for all its
    connections.
    """

    def __init__(
        self,
        topology: Topology,
        consumer: Consumer,
        deliveries: WaitingDeliveries,
        *,
        report: Callable[[str], None],
        on_count: Callable[[WaitingCounts], None],
    ) -> None:
        """Start without queues.

        Args:
            topology: the topology of the system.
            consumer: the consumer of the records.
            deliveries: gets the deliveries of the waiting queues.
            report: called with the reason when the consumer holds, and with "" when it continues.
            on_count: called with the counts of the waiting records when they have changed.

        """
        # The body of the latest notice. A notice is a fence that reports a change of the ring.
        self._notice: bytes | str | None = None
        self._on_count = on_count
        self._counts, self._counted_at = WaitingCounts(), -math.inf
        self._clock = broker.clock(topology)
        self._names = Names(topology)
        self._consumer = consumer
        self._deliveries = deliveries
        # Each waiting queue belongs to a queue that the consumer also reads. The keys of this dict
        # are the consumer tags of the subscriptions to these other queues.
        self._waiting_queues: dict[str, WaitingQueue] = {}
        self._limit = RetryLimit(consumer, report)
        self._mover = WaitingRecordMover(topology, consumer, deliveries.records)
        self._renewed_at = self._clock.monotonic()

    def __len__(self) -> int:
        """Count the waiting records."""
        return len(self._deliveries.records)

    def __bool__(self) -> bool:
        """Whether a record waits, or a requeued dead letter is to be handled."""
        return bool(self._deliveries.requeued_dead_letters) or len(self) > 0

    def set_predecessors(self, old_queues: Predecessors | None) -> None:
        """Let records wait for these old queues, in addition to the earlier records of their keys.

        This method is called when the consumer begins and stops tracking the old queues of a ring.

        Args:
            old_queues: determines the old queues of a key. With None, records wait for no queue.

        """
        self._deliveries.predecessors = old_queues

    @property
    def awaited_queues(self) -> Collection[str]:
        """The names of the old queues, those of older generations, that records wait for."""
        return self._deliveries.records.awaited_queues.queues

    @property
    def count_behind_old_queues(self) -> int:
        """How many records wait for old queues, those of older generations of the ring."""
        return self._deliveries.records.awaited_queues.record_count

    def put_probes(self) -> None:
        """Publish a probe, a fence with a random id, to each waiting queue.

        This method is called when old queues were deleted: the records that were moved from them
        are in the waiting queues before the probes.
        """
        for waiting_queue in self._waiting_queues.values():
            waiting_queue.probes.put_probe()

    def check_probes(self) -> bool:
        """Return whether all probes of put_probes() have returned.

        Then all records that were moved to the waiting queues before put_probes() have arrived. It
        is called often; a lost probe is published again.
        """
        # all() with a generator would end at the first queue whose probe has not returned. But
        # check_probe() must be called for each queue, because it also publishes a lost probe again.
        returned = [waiting_queue.check_probe() for waiting_queue in self._waiting_queues.values()]
        return all(returned)

    def release_records(self, queues: Collection[str]) -> None:
        """Let records run if they wait only for old queues that were deleted.

        This method is called when the moved records of these queues have arrived.

        Args:
            queues: the names of the deleted queues on the broker.

        """
        self._deliveries.records.forget_deleted_queues(queues)

    def take_notice(self) -> bytes | str | None:
        """Return the body of the latest notice that has arrived since the last call, or None.

        A notice is a message in a waiting queue. It reports that the ring has changed, and its body
        contains the new generation.
        """
        notice, self._notice = self._notice, None
        return notice

    def _keep_notice(self, body: bytes | str) -> None:
        self._notice = body

    def open(
        self,
        connection: Connection,
        queue: str,
        tag: str,
        on_cancel: Callable[[str], None],
        generation_number: int = 0,
    ) -> bool:
        """Subscribe to the waiting queue of a queue; return when its records have arrived.

        The subscription continues after the call.

        Args:
            connection: the connection of the consumer.
            queue: the name of the queue on the broker whose waiting queue is read.
            tag: the consumer tag of the subscription to the queue.
            on_cancel: called with that tag when the broker cancels the subscription to the waiting
                queue.
            generation_number: the number of the queue's generation.

        Returns:
            False if this must be tried again later. There are two cases: another consumer reads
            the waiting queue; or the broker has refused the probe, the message that this method
            puts behind the waiting records.

        Raises:
            NotFound: the queue to read does not exist. Its waiting queue is not declared then.

        """
        name = self._names.waiting(queue)
        if tag not in self._waiting_queues:
            channel = connection.channel()
            channel.queue_declare(queue, passive=True)
            declarations.declare_waiting_queue(channel, self._consumer.queue, name)
            channel.close()
            waiting_queue = WaitingQueue.open(
                connection,
                name,
                f"{tag}{WAITING_SUFFIX}",
                self._deliveries,
                lambda _: on_cancel(tag),
                generation_number,
                self._keep_notice,
            )
            if waiting_queue is None:
                return False
            self._waiting_queues[tag] = waiting_queue
            if len(self):
                count = counted(len(self), "record waits", "records wait")
                events.info(
                    "waiting_read",
                    f"{self._consumer.name} begins to read: {count} for an earlier record of the"
                    " same key, or for a retry",
                    consumer=self._consumer.name,
                    queue=name,
                    records=len(self),
                )
        # If a record of the queue fails, its message is put into this waiting queue.
        self._deliveries.add_subscription(tag, name, generation_number)
        return True

    def delete(self, tag: str) -> None:
        """Stop reading the waiting queue of a deleted old queue; delete it, too, if it is empty.

        This method is called when the old queue does not exist any more.

        Args:
            tag: the consumer tag of the subscription to the old queue.

        """
        waiting_queue = self._waiting_queues.get(tag)
        if waiting_queue is not None and not self._deliveries.records.records_in(
            waiting_queue.queue
        ):
            waiting_queue.channel.queue_delete(waiting_queue.queue)
        self.close(tag)

    def close(self, tag: str = "") -> None:
        """Stop reading a waiting queue, or all of them.

        This method is called when the consumer stops reading a queue, and at the end of a
        connection.

        Args:
            tag: the consumer tag of the subscription to the queue that has the waiting queue; ""
                for all.

        """
        for each in [tag] if tag else [*self._waiting_queues]:
            waiting_queue = self._waiting_queues.pop(each, None)
            if waiting_queue is not None:
                waiting_queue.close()
        if not self._waiting_queues:
            self.forget()

    def forget(self) -> None:
        """Forget all waiting records, because the connection is lost."""
        for waiting_queue in self._waiting_queues.values():
            waiting_queue.is_closed = True
        self._waiting_queues.clear()
        self._deliveries.forget()
        self._report_counts()
        self._limit.forget()

    def seconds_until_due(self) -> float:
        """Return in how many seconds a waiting record may be handled; infinity if none waits."""
        return max(self._deliveries.seconds_until_due(), 0.0) if self else math.inf

    def has_reached_limit(self) -> bool:
        """Whether `waiting_limit` is reached: then only waiting records are handled.

        Changes are logged. The runner calls this before it handles deliveries of the other queues.
        """
        if not len(self) and not any(self._counts) and not self._limit.reached:
            return False
        self._report_counts()
        return self._limit.check(len(self) - self.count_behind_old_queues)

    def take(self, max_records: int, is_suspected: Callable[[str], bool]) -> list[Delivery]:
        """Return the deliveries of waiting queues that the caller handles now.

        The modes of the runner call this when a waiting record is due.

        Args:
            max_records: the largest number of deliveries; each has one record.
            is_suspected: a function that gets a message id. It returns whether this message may
                have ended a process. Such a message must be handled alone.

        """
        return self._deliveries.take(max_records, is_suspected)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Let taken records wait again, because they were not handled.

        The modes call this, for example, if another record must be handled alone first.

        Args:
            deliveries: deliveries that take() has returned.

        """
        self._deliveries.put_back(deliveries)

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge the deliveries of waiting queues that were handled.

        The modes call this when the results of the records are sent.

        Args:
            deliveries: deliveries that take() has returned.

        """
        settled: defaultdict[str, list[Delivery]] = defaultdict(list)
        for delivery in self._deliveries.finish(deliveries):
            settled[delivery.consumer_tag.removesuffix(WAITING_SUFFIX)].append(delivery)
        for tag, tag_deliveries in settled.items():
            self._waiting_queues[tag].acknowledge(tag_deliveries)

    @property
    def may_have_unknown_messages(self) -> bool:
        """Whether a waiting queue may contain a message that this process does not know.

        This property is read after an outage. If the result is True, the consumer connects again,
        and reads its waiting queues from their start. The result is True in two cases. The process
        has sent messages to a waiting queue, and the broker has not confirmed them. Or a delivery
        will be handled again, and some of its failed records may already be in a waiting queue.
        """
        return self._deliveries.has_unconfirmed or self._deliveries.repetition_expected

    def _report_counts(self) -> None:
        """Report how many records wait, and for what, if that has changed."""
        if len(self):
            now = self._clock.monotonic()
            if now <= self._counted_at + COUNT_SECONDS:
                return  # to count 10,000 records takes a millisecond
            self._counted_at = now
        counts = self._deliveries.records.counts()
        if counts != self._counts:
            self._counts = counts
            self._on_count(counts)

    def renew(self, timeout_seconds: float) -> None:
        """Return old deliveries to the broker, which delivers them again; called often.

        So no delivery of a waiting record exceeds the broker's consumer timeout.

        Args:
            timeout_seconds: the broker's consumer timeout in seconds; infinity if it is not known.

        """
        self._report_counts()
        now = self._clock.monotonic()
        # A delivery that is too young to be returned now is returned one interval later. So no
        # delivery gets older than two intervals: the greatest age described at RENEWED_SECONDS.
        interval = min(RENEWED_SECONDS, timeout_seconds * RENEWED_SHARE) / 2
        if now < self._renewed_at + interval:
            return
        self._renewed_at = now
        for waiting_queue in self._waiting_queues.values():
            waiting_queue.renew(now - interval)

    def move_records(self, connection: Connection, queue: str, tag: str) -> bool:
        """Move the waiting records of an ending queue to shards of a later generation.

        This method is called before the ending queue is deleted.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue: an old queue whose fence has arrived.
            tag: the tag of the subscription to the queue.

        Returns:
            Whether its waiting queue has no record any more. False if this must be repeated later.

        """
        waiting_queue = self._waiting_queues.get(tag)
        if waiting_queue is None:
            return True
        if self._deliveries.requeued_dead_letters.contains(waiting_queue.tag):
            # The handling of the requeued dead letter can put messages into the waiting queue. So
            # the probe of the ending queue must come after these messages. `is_ending` is reset:
            # when the dead letter is settled, the mover publishes a new probe.
            waiting_queue.is_ending = False
            return False
        return self._mover.move(connection, queue, waiting_queue)
