"""The move of waiting records from an ending queue to the shards that own their keys now.

An *ending queue* belongs to an older generation of the ring, and its fence, the message that marks
its end, has arrived. Each ending queue has a waiting queue. Before the ending queue is deleted, the
records that still wait there are moved, or handled if they cannot be moved.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker.channels import short_channel
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.dispatch.waiting_record import Arrival, WaitingRecord
from feedbus.dispatch.waiting_records import WaitingRecords
from feedbus.errors import BrokerOutage, UsageError
from feedbus.generations import predecessors
from feedbus.generations.queue_phases import generations_since
from feedbus.logs import EventLog
from feedbus.ring import Ring
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.topology import Consumer, Generation, Topology
from feedbus.wire import Delivery
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.outgoing_message import Moved

events = EventLog(__name__)

MIN_GENERATIONS = 2  # a move needs two generations: of the ending queue, and a newer one
# The largest number of records that are moved into one waiting queue: its reader can get at most
# 65,535 unsettled deliveries.
MAX_MOVED = 50_000


class WaitingRecordMover:
    """Moves the waiting records of one consumer's ending queues.

    An ending queue is an old queue whose fence, the message that marks its end, has arrived. Each
    record is moved to the waiting queue of the shard that owns its key in the current
    generation. With `block_on_dead`, consumers read the queues of one generation after the other.
    So with this option, a record is moved to the generation that follows the generation of the
    ending queue. In both cases, the record is not handled by its new consumer before the ending
    queue is deleted. In four cases, records are not moved, but handled here first:

    - the ring hashes another value than the routing key;
    - there is no later generation with shards;
    - there are too many records for the other waiting queue;
    - a queue of a generation in between can still have records of their keys.

    With `block_on_dead`, a dead letter also blocks its key until it is requeued or dropped. A
    process that drops dead letters, such as `feedbus dead drop`, puts a request to release their
    keys into each waiting queue. The record that blocks a key may be moved at that time. Then it is
    possible that no request finds the record: the request in the old waiting queue arrives after
    the record has left, and the request in the new waiting queue before the record arrives. The key
    would stay blocked. So the requests in the old waiting queue are moved, too, after the records.

    The WaitingQueues object of a run has one WaitingRecordMover object.
    """

    def __init__(self, topology: Topology, consumer: Consumer, records: WaitingRecords) -> None:
        """Create the mover for the waiting records of a consumer.

        Args:
            topology: the topology.
            consumer: the consumer.
            records: the waiting records that the consumer has received.

        """
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        self._records = records

    def move(self, connection: Connection, queue: str, waiting_queue: WaitingQueue) -> bool:
        """Move the waiting records of an ending queue to shards of a later generation.

        This method is called again and again until the result is True. Then the ending queue can be
        deleted.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue: an old queue whose fence has arrived.
            waiting_queue: the subscription to the waiting queue of the ending queue.

        Returns:
            Whether the waiting queue has no record any more. False if this must be repeated later.

        Raises:
            BrokerOutage: the broker refuses records, or does not confirm them.

        """
        if not waiting_queue.is_complete():
            return False
        waiting_queue.apply_releases()
        records = self._records.records_in(waiting_queue.queue)
        if not records:
            return self._move_releases(connection, queue, waiting_queue)
        exchange = self._consumer.queue.exchange
        if not self._topology.exchanges[exchange].hashes_routing_keys:
            return False
        # A record can be moved only if its message was delivered, and if no handler has the record.
        # Without `arrival`, the message is on its way: after another failure, or because renew()
        # has returned it to the broker.
        arrivals = [each.arrival for each in records if each.arrival and not each.is_taken]
        if len(arrivals) < len(records):
            return False
        try:
            # While this process has the lock, no switch can begin, so the current generation
            # remains the current one. So none of its queues can be deleted before the records have
            # arrived.
            with broker.locked(connection, self._topology, wait_seconds=0.0):
                return self._move(connection, queue, waiting_queue, records, arrivals)
        except UsageError:  # another process has the lock, perhaps for a switch
            return False

    def _move(
        self,
        connection: Connection,
        queue: str,
        waiting_queue: WaitingQueue,
        records: Sequence[WaitingRecord],
        arrivals: Sequence[Arrival],
    ) -> bool:
        """Publish records to the waiting queues of a later generation, then acknowledge them here.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue.
            waiting_queue: the subscription to the waiting queue of the ending queue.
            records: the records in the waiting queue.
            arrivals: the deliveries of these records, in the same order.

        Returns:
            True if all records were moved, and no request to release one of their keys is left in
            the old waiting queue. False if something remains to be done there.

        """
        keys = [arrival.delivery.original_key for arrival in arrivals]
        generation_and_targets = self._find_targets(connection, queue, keys)
        if generation_and_targets is None:
            return False
        generation, targets = generation_and_targets
        moved = [
            Moved.of(arrival.message, "", target)
            for arrival, target in zip(arrivals, targets, strict=True)
        ]
        refusals = publish_all(connection, moved)
        if refusals:
            msg = (
                f"broker: {len(refusals)} waiting records cannot be moved from the waiting queue of"
                f" {queue}: {refusals[0].reason}"
            )
            raise BrokerOutage(msg)
        # The last records are acknowledged first. If a crash interrupts this, the first records of
        # each key are still in this waiting queue. So none of the records that are left here
        # overtakes an earlier record of its key.
        waiting_queue.acknowledge([arrival.delivery for arrival in reversed(arrivals)])
        for record in records:
            self._records.remove(record)
        if self._consumer.queue.block_on_dead:
            # Requests to release keys may have been put here before the records were moved. The
            # probe is behind these requests. When the probe has returned, move() moves them.
            waiting_queue.probes.put_probe()
        events.info(
            "waiting_moved",
            f"{self._consumer.name}: {len(records)} waiting records were moved to generation"
            f" {generation.digest}",
            consumer=self._consumer.name,
            queue=queue,
            records=len(records),
        )
        return not self._consumer.queue.block_on_dead

    def _move_releases(
        self, connection: Connection, queue: str, waiting_queue: WaitingQueue
    ) -> bool:
        """Move the requests to release keys to the waiting queues of all later generations.

        A key is released when the dead letter that blocks it was dropped. The result is False if
        another process holds the topology's lock on the broker: then this must be repeated.
        """
        if not waiting_queue.releases:
            return True
        try:
            with broker.locked(connection, self._topology, wait_seconds=0.0):
                with short_channel(connection) as channel:
                    exchange = self._consumer.queue.exchange
                    newer = generations_since(channel, self._topology, exchange, queue)[1:]
                releases = [*waiting_queue.releases]
                # It is not known which shard has the key. So each request goes to all shards. If a
                # shard has no waiting queue, the refusal is ignored.
                publish_all(
                    connection,
                    [
                        Moved.of(message, "", self._names.waiting(member))
                        for message in releases
                        for generation in newer
                        for member in self._names.members(generation)
                    ],
                )
        except UsageError:  # another process has the lock, perhaps for a switch
            return False
        waiting_queue.acknowledge([Delivery.of(message) for message in releases])
        del waiting_queue.releases[: len(releases)]
        return True

    def _find_targets(
        self, connection: Connection, queue: str, keys: Sequence[str]
    ) -> tuple[Generation, list[str]] | None:
        """Find the generation to move to, and the waiting queues of its shards.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue.
            keys: the routing key of each record.

        Returns:
            The generation, and the name of the waiting queue for each of the keys, in their order.
            None if the records are not moved, but handled here first: the description of the class
            lists the cases.

        """
        channel = connection.channel()
        exchange = self._consumer.queue.exchange
        generations = generations_since(channel, self._topology, exchange, queue)
        if not predecessors.are_known(self._topology, self._consumer.queue):  # `block_on_dead`
            generations = generations[:2]
        if len(generations) < MIN_GENERATIONS or not generations[-1].members:
            channel.close()
            return None
        *old, generation = generations
        queues_between = {
            owner for each in old[1:] for owner in self._queues_by_key(each, keys).values()
        }
        if any(broker.queue_exists(connection, owner) for owner in queues_between):
            channel.close()
            return None
        owners = self._queues_by_key(generation, keys)
        targets = [self._names.waiting(owners[key]) for key in keys]
        for target in dict.fromkeys(targets):
            declarations.declare_waiting_queue(channel, self._consumer.queue, target)
        channel.close()
        # Several old queues can move records to one shard. The broker's count of messages does not
        # contain the messages that the reader of the shard's waiting queue has received. So each
        # old queue may use only its share of the room in the waiting queue.
        old_queue_count = sum(len(each.members) for each in old)
        max_records = MAX_MOVED // math.ceil(old_queue_count / len(generation.members))
        for target, count in Counter(targets).items():
            if (broker.count_messages(connection, target) or 0) + count > max_records:
                return None
        return generation, targets

    def _queues_by_key(self, generation: Generation, keys: Iterable[str]) -> dict[str, str]:
        """Map each of these routing keys to the queue of a generation that owns the key."""
        if not generation.members:
            return {}
        ring = Ring.of(generation.members)
        return {key: self._names.member(generation, ring.route(key)) for key in {*keys}}
