"""Delete the dead letters of a queue that exceed its limits, and count them."""

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
FIRST_SECONDS = 1.0  # before the first check, and after a check that did not delete everything
DROPPED_AT_ONCE = 500  # how many dead letters one check deletes
UNDATED_AT_ONCE = 100  # how many dead letters without a time one check skips


class Pruning:
    """Deletes a queue's old dead letters periodically, if the queue has limits for them."""

    def __init__(self, topology: Topology, consumer: Consumer, metrics: ConsumerMetrics) -> None:
        """Create the object of a consumer's process.

        Only the process of the first shard makes the checks, because all shards share the dead
        letters.
        """
        self._topology = topology
        self._consumer = consumer
        self._metrics = metrics
        self._clock = broker.clock(topology)
        wanted = consumer.queue.dead_letters != DeadLetters() and not consumer.shard
        self._next = self._clock.monotonic() + FIRST_SECONDS if wanted else math.inf

    def check(self, connection: Connection) -> None:
        """Delete the dead letters that exceed the limits, if the next check is due."""
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

    Several processes can prune at the same time. Each takes the oldest dead letter from the queue,
    and decides by the number of dead letters that are still behind it.

    Args:
        connection: a connection to the broker.
        topology: the topology of the queue.
        queue: the queue, which has limits.

    Returns:
        The number of dropped dead letters for each limit.

    """
    name, limits = Names(topology).dead(queue), queue.dead_letters
    now = broker.clock(topology).wall_nanoseconds() // 1_000
    max_age_seconds = limits.max_age_seconds
    dropped: Counter[Limit] = Counter()
    kept: list[int] = []
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
                # A foreign message without a time must not protect the dead letters behind it.
                if max_age_seconds is None or age is not None or len(kept) >= UNDATED_AT_ONCE:
                    break
                continue
            exceeding[tag] = letter.message_id
        if queue.block_on_dead and exceeding:  # first, so that a crash leaves no key blocked
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
