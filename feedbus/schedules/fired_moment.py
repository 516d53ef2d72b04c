"""The last fired moment of a schedule; the broker keeps it in a queue with one message.

A moment is a time that the schedule's cron expression matches. For a schedule that is new and was
not fired yet, the message contains the time at which the schedule was first checked.

The scheduler takes the message out of the queue while it holds the topology's lock. Other programs,
such as `feedbus status`, read the moment without the lock. While such a program has the message, it
is a consumer of the queue. So the scheduler can distinguish a queue whose message is taken from the
empty queue of a new schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from kombu.connection import Connection

from feedbus import broker
from feedbus.broker import declarations
from feedbus.broker.publisher import publish_all
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage
from feedbus.topology import Schedule, Topology
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel

# How often take() reads an empty queue, before it returns that no moment is stored.
READ_ATTEMPTS = 10
READ_PAUSE_SECONDS = 0.03  # between two such attempts


class MomentUnreadable(BrokerOutage):
    """The last fired moment of a schedule cannot be read now.

    Another program, such as `feedbus status`, has received the message with the moment, and has not
    returned the message to its queue.
    """


class FiredMoment:
    """The last fired moment of a schedule, which the broker keeps in a queue with one message.

    A moment is a time that the cron expression matches. For a schedule that was not fired yet, the
    message contains the time at which the schedule was first checked. Only the
    process that holds the topology's lock on the broker changes the moment. write() publishes the
    new message before it acknowledges the old one. After a crash in between, the queue has both
    messages. Then the latest moment counts, so the old message has no effect.
    """

    def __init__(self, channel: Channel, topology: Topology, schedule: Schedule) -> None:
        """Declare the queue of a schedule if it is missing.

        Args:
            channel: the channel for all methods; the caller closes it.
            topology: the topology of the schedule.
            schedule: the schedule.

        """
        self._channel = channel
        self._queue = Names(topology).schedule(schedule.name)
        self._held: list[int] = []  # the delivery tags of the taken messages
        declarations.declare_schedule(channel, Names(topology), schedule)

    def take(self) -> datetime | None:
        """Take the message out of the queue; return its moment, in UTC.

        No other process can take the message until write() or give_back().

        Returns:
            The moment; None if the queue has no message, or only messages without a valid moment.

        Raises:
            MomentUnreadable: another program has the message.

        """
        is_read = False
        for _ in range(READ_ATTEMPTS):
            moments = []
            while (message := self._channel.basic_get(self._queue)) is not None:
                self._held.append(message.delivery_tag)
                moments.append(read_moment(message.body))
            known = [moment for moment in moments if moment is not None]
            if moments:
                return max(known, default=None)
            # The queue can be empty for a short time, while another program reads the message.
            declared = self._channel.queue_declare(self._queue, passive=True)
            is_read = is_read or declared.consumer_count > 0
            self._channel.connection.clock.sleep(READ_PAUSE_SECONDS)
        if is_read:
            msg = (
                f"broker: another program reads queue {self._queue}, which contains the time of"
                " the last firing; perhaps `feedbus status` was stopped: continue or end it"
            )
            raise MomentUnreadable(msg)
        return None

    def write(self, moment: datetime) -> None:
        """Replace the moment on the broker; return when the broker has confirmed it.

        The scheduler calls the method after take(). For a new schedule, it writes the present time.

        Args:
            moment: the new moment, with a time zone.

        Raises:
            BrokerOutage: the broker did not confirm the message in time, or the queue was deleted
                after this object had declared it.

        """
        body = write_moment(moment).encode()
        message = Outgoing(
            "", self._queue, body, "text/plain", "", content_encoding=None, stamp=None
        )
        if publish_all(self._channel.connection, [message]):
            msg = f"broker: queue {self._queue} was deleted while feedbus wrote to it"
            raise BrokerOutage(msg)
        for tag in self._held:
            self._channel.basic_ack(tag)
        self._held.clear()

    def give_back(self) -> None:
        """Return the taken message to the queue, so that the moment stays unchanged."""
        for tag in self._held:
            self._channel.basic_reject(tag, requeue=True)
        self._held.clear()


def fired_moments(connection: Connection, topology: Topology) -> dict[str, datetime]:
    """Return the last fired moment of each schedule, by the name of the schedule.

    A moment is a time that the cron expression matches, in UTC. For a schedule that was not fired
    yet, the result has the time at which the schedule was first checked. Schedules whose queue does
    not exist, or whose moment cannot be read now, are left out; no queue is declared.

    Args:
        connection: a connection to the broker.
        topology: the topology with the schedules.

    """
    names, read = Names(topology), dict[str, list[datetime | None]]()
    channel = connection.channel()

    def append_to(moments: list[datetime | None]) -> Callable[[Any], None]:
        return lambda message: moments.append(read_moment(message.body))

    for name in topology.schedules:
        if broker.queue_exists(connection, queue := names.schedule(name)):
            read[name] = []
            channel.basic_consume(queue, callback=append_to(read[name]))
    for _ in range(READ_ATTEMPTS):
        try:
            while read:
                channel.connection.drain_events(timeout=READ_PAUSE_SECONDS)
        except TimeoutError:
            if all(read.values()):
                break
    channel.close()  # the messages return to their queues
    known = {
        name: max((each for each in moments if each is not None), default=None)
        for name, moments in read.items()
    }
    return {name: moment for name, moment in known.items() if moment is not None}


def write_moment(moment: datetime) -> str:
    """Return a moment as text in UTC, such as 2026-01-31T02:00:00Z.

    Args:
        moment: a time with a time zone.

    """
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_moment(body: bytes | str) -> datetime | None:
    """Return the moment in the body of a message, in UTC; None if the body contains none.

    Args:
        body: the text that write_moment() has returned, or any other body.

    """
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
