"""Delete the dead letters of a queue that exceed the limits `max_age` and `max_length`."""

from __future__ import annotations

import math
from collections import Counter

from amqp.exceptions import ChannelError

from feedbus import broker
from feedbus.broker.channels import short_channel
from feedbus.broker_names import Names
from feedbus.dead_letters import letters
from feedbus.dead_letters.key_release import release
from feedbus.errors import UsageError
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics, Limit
from feedbus.topology import Consumer, DeadLetters, Queue, Topology
from feedbus.wire.amqp_protocols import Connection
from feedbus.wire.delivery import seconds_since

events = EventLog(__name__)

INTERVAL_SECONDS = 60.0  # between two checks
FIRST_SECONDS = 1.0  # before the first check, and after a check that has reached DROPPED_AT_ONCE
DROPPED_AT_ONCE = 500  # the most dead letters that one check deletes
UNDATED_AT_ONCE = 100  # the most dead letters without a time that one check reads and keeps


class Pruning:
    """Deletes periodically the dead letters of a queue that exceed the queue's limits, if any.

    The process of each consumer has one Pruning object. If the queue has shards, only the object of
    the first shard deletes anything.
    """

    def __init__(self, topology: Topology, consumer: Consumer, metrics: ConsumerMetrics) -> None:
        """Create the object for a consumer's process.

        All shards of a queue share the dead letters. So if the queue has shards, only the consumer
        of the first shard makes the checks.

        Args:
            topology: the topology of the consumer.
            consumer: the consumer of the process.
            metrics: counts the deleted dead letters.

        """
        self._topology = topology
        self._consumer = consumer
        self._metrics = metrics
        self._clock = broker.clock(topology)
        has_limits = consumer.queue.dead_letters != DeadLetters()
        checks = has_limits and not consumer.shard
        self._next = self._clock.monotonic() + FIRST_SECONDS if checks else math.inf

    def check(self, connection: Connection) -> None:
        """Delete the dead letters that exceed the limits, if it is time for the next check.

        The runner calls this again and again.

        Args:
            connection: the consumer's connection to the broker.

        """
        if self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + INTERVAL_SECONDS
        queue = self._consumer.queue
        try:
            dropped = prune(connection, self._topology, queue)
        except ChannelError as error:
            events.warning(
                "dead_letters_unreadable",
                f"the dead letters of {queue.name} cannot be read, so dead_letters.max_age and"
                " max_length have no effect now; the next attempt is in"
                f" {INTERVAL_SECONDS:.0f} s",
                consumer=self._consumer.name,
                queue=queue.name,
                error=error,
            )
            return
        for limit, count in dropped.items():
            self._metrics.dropped(limit, count)
            events.warning(
                "dead_letters_dropped",
                f"{count} dead letters of {queue.name} were deleted because of"
                f" dead_letters.{limit}",
                consumer=self._consumer.name,
                queue=queue.name,
                limit=limit,
                count=count,
            )
        if dropped.total() == DROPPED_AT_ONCE:
            self._next = self._clock.monotonic() + FIRST_SECONDS


def prune(connection: Connection, topology: Topology, queue: Queue) -> Counter[Limit]:
    """Delete the oldest dead letters of a queue while they are too old or too many.

    A consumer's Pruning calls the function once a minute. Several processes can call it at the same
    time, for example on several hosts. Each process takes the oldest dead letter from the queue,
    and counts the dead letters that are still in the queue. So the processes together do not delete
    more dead letters than the limits require.

    Args:
        connection: a connection to the broker.
        topology: the topology of the queue.
        queue: the queue, which has limits.

    Returns:
        For each limit, the number of dead letters that were deleted because of it.

    """
    name, limits = Names(topology).dead(queue), queue.dead_letters
    now = broker.clock(topology).wall_nanoseconds() // 1_000
    max_age_seconds = limits.max_age_seconds
    dropped: Counter[Limit] = Counter()
    kept: list[int] = []  # delivery tags
    exceeding: dict[int, str] = {}  # message ids by delivery tag
    with short_channel(connection) as channel:
        channel.auto_decode = False
        while dropped.total() < DROPPED_AT_ONCE:
            message = channel.basic_get(name)
            if message is None:
                break
            tag, behind = message.delivery_tag, message.delivery_info["message_count"]
            letter = letters.read(queue, message)
            age = seconds_since(letter.failed_at_microseconds, now)
            if limits.max_length is not None and behind >= limits.max_length:
                dropped["max_length"] += 1
            elif max_age_seconds is not None and age is not None and age > max_age_seconds:
                dropped["max_age"] += 1
            else:
                kept.append(tag)
                # The dead letters behind this one are not older, so the check ends here. But if
                # this one has no time, their ages are not known yet.
                if max_age_seconds is None or age is not None or len(kept) >= UNDATED_AT_ONCE:
                    break
                continue
            exceeding[tag] = letter.message_id
        if queue.block_on_dead and exceeding:
            # The keys are released before the dead letters are deleted. After a crash between the
            # two steps, the dead letters still exist, and the next check releases the keys again.
            try:
                release(connection, topology, queue, exceeding.values(), wait_seconds=0.0)
            except UsageError:  # another process has the lock; the next check deletes them
                kept += exceeding
                exceeding = {}
                dropped.clear()
        for tag in exceeding:
            channel.basic_ack(tag)
        for tag in kept:
            channel.basic_reject(tag, requeue=True)
    return dropped
