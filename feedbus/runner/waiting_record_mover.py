"""The move of waiting records from an ending queue to the shards that own their keys now."""

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
MAX_MOVED = 50_000  # into one waiting queue, because its reader gets at most PREFETCH


class WaitingRecordMover:
    """Moves the waiting records of one consumer's ending queues.

    Each record is moved to the waiting queue of the shard that owns its key in the current
    generation. The record does not run there before the old queue is deleted. In two cases, records
    are not moved, but handled here first: there are too many of them for the other waiting queue;
    or a queue of a generation between the old and the current one can still have records of their
    keys.

    If it is not known which old queues had a key, each key waits for all old queues. Then records
    are moved only to the next generation, which is not read yet.

    `feedbus dead drop` puts a message into each waiting queue. The message releases the key that a
    dead letter has blocked. If a record of this key is moved at that time, the message in the old
    waiting queue can arrive too late, and the message in the new waiting queue too early. So the
    messages of the old waiting queue are moved, too, after the records.
    """

    def __init__(self, topology: Topology, consumer: Consumer, records: WaitingRecords) -> None:
        """Create the mover for the waiting records of a consumer."""
        self._topology = topology
        self._names = Names(topology)
        self._consumer = consumer
        self._records = records

    def move(self, connection: Connection, queue: str, waiting_queue: WaitingQueue) -> bool:
        """Move the waiting records of an ending queue.

        Args:
            connection: the connection of the consumer.
            queue: the ending queue.
            waiting_queue: the subscription to its waiting queue.

        Returns:
            Whether nothing waits for the queue any more.

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
        # Records without an arrival have failed again and are being sent to this queue. Taken
        # records are in a handler.
        arrivals = [each.arrival for each in records if each.arrival and not each.is_taken]
        if len(arrivals) < len(records):
            return False
        try:
            # Under the lock, the current generation remains the current one. So none of its queues
            # can be deleted before the records have arrived.
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
        """Publish records to the shards of the current generation, then acknowledge them here."""
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
            msg = f"broker: {len(refusals)} waiting records cannot be moved: {refusals[0].reason}"
            raise BrokerOutage(msg)
        # The last records are acknowledged first: if a crash interrupts this, the first records of
        # each key are still here.
        waiting_queue.acknowledge([arrival.delivery for arrival in reversed(arrivals)])
        for record in records:
            self._records.remove(record)
        if self._consumer.queue.block_on_dead:
            # The probe is behind the messages that were put here before the records were moved.
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
        """Move the messages that release keys; return False if this must be repeated."""
        if not waiting_queue.releases:
            return True
        try:
            with broker.locked(connection, self._topology, wait_seconds=0.0):
                with short_channel(connection) as channel:
                    exchange = self._consumer.queue.exchange
                    newer = generations_since(channel, self._topology, exchange, queue)[1:]
                releases = [*waiting_queue.releases]
                # Refusals are ignored: perhaps a shard has no waiting queue.
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
        """Return the generation to move to, and the waiting queue for each of the keys.

        Returns:
            None if the records are handled here first; see the class.

        """
        channel = connection.channel()
        exchange = self._consumer.queue.exchange
        generations = generations_since(channel, self._topology, exchange, queue)
        if not predecessors.are_known(self._topology, self._consumer.queue):
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
        # The broker counts no message that a reader has received. So several old queues whose keys
        # move to one shard share the room in its waiting queue.
        queues = sum(len(each.members) for each in old)
        max_records = MAX_MOVED // math.ceil(queues / len(generation.members))
        for target, count in Counter(targets).items():
            if (broker.count_messages(connection, target) or 0) + count > max_records:
                return None
        return generation, targets

    def _queues_by_key(self, generation: Generation, keys: Iterable[str]) -> dict[str, str]:
        """Return the queue of a generation that owns each of these routing keys."""
        if not generation.members:
            return {}
        ring = Ring.of(generation.members)
        return {key: self._names.member(generation, ring.route(key)) for key in {*keys}}
