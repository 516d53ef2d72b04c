"""The last fired moment of a schedule; the broker keeps it in a queue with one message.

A moment is a time that the schedule's cron expression matches. For a schedule that is new and was
not fired yet, the message contains the time at which the schedule was first checked.
"""

from __future__ import annotations

from datetime import UTC, datetime

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


class FiredMoment:
    """The last fired moment of a schedule, which the broker keeps in a queue with one message.

    A moment is a time that the cron expression matches. The caller holds the topology's lock to
    change it. write() publishes the new message before it acknowledges the old one. After a crash
    in between, the queue has both messages. Then the latest moment counts, so the old message has
    no effect.
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

        """
        for _ in range(READ_ATTEMPTS):
            moments = []
            while (message := self._channel.basic_get(self._queue)) is not None:
                self._held.append(message.delivery_tag)
                moments.append(read_moment(message.body))
            known = [moment for moment in moments if moment is not None]
            if moments:
                return max(known, default=None)
            # The queue can be empty for a short time, while another reader has the message.
            self._channel.connection.clock.sleep(READ_PAUSE_SECONDS)
        return None

    def write(self, moment: datetime) -> None:
        """Replace the moment on the broker; return when the broker has confirmed it.

        The scheduler calls the method after take(). For a new schedule, the moment is the present
        time.

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

    A moment is a time that the cron expression matches, in UTC. Schedules whose queue does not
    exist are left out; no queue is declared.

    Args:
        connection: a connection to the broker.
        topology: the topology with the schedules.

    """
    names, found = Names(topology), {}
    for schedule in topology.schedules.values():
        if not broker.queue_exists(connection, names.schedule(schedule.name)):
            continue
        channel = connection.channel()
        fired = FiredMoment(channel, topology, schedule)
        moment = fired.take()
        fired.give_back()
        channel.close()
        if moment is not None:
            found[schedule.name] = moment
    return found


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
