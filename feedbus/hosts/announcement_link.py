"""The connection by which a host sends and receives announcements."""

from __future__ import annotations

from typing import Any

from feedbus import broker
from feedbus.broker import lookups
from feedbus.broker_names import Names
from feedbus.hosts.announcement import Announcement, decode
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import RawConnection
from feedbus.wire.constants import JSON

# The most announcements that a host's queue keeps while the host does not read; the oldest are
# dropped.
MAX_KEPT = 1_000


class AnnouncementLink:
    """The connection of this host to the exchange for the announcements of all hosts.

    The host has an exclusive queue that is bound to the exchange. The broker deletes the queue when
    the connection is closed, and the exchange when the last queue is deleted. After a lost
    connection, the Announcer makes a new object.
    """

    def __init__(self, topology: Topology) -> None:
        """Create the queue of this host on a new connection to the broker.

        Raises:
            BrokerOutage: the broker is unavailable.

        """
        self._topology = topology
        self._clock = broker.clock(topology)
        self._exchange = Names(topology).hosts
        self._bodies: list[Any] = []  # of the messages that arrived since the last receive()
        self._queues_of_hosts: set[str] = set()  # names of queues that belong to other hosts
        self._connection = broker.connect(topology, broker.HeartbeatSource.CALLER)
        self._raw: RawConnection = self._connection.connection
        with broker.outage(self._connection, topology.broker_url):
            channel = self._channel = self._raw.channel()
            channel.auto_decode = False
            channel.exchange_declare(self._exchange, "fanout", durable=False, auto_delete=True)
            self.queue = f"{self._exchange}.{self._clock.unique()}"
            channel.queue_declare(
                self.queue,
                durable=False,
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": MAX_KEPT},
            )
            channel.queue_bind(self.queue, self._exchange)
            channel.basic_consume(self.queue, callback=self._take)

    def _take(self, message: Any) -> None:
        self._channel.basic_ack(message.delivery_tag)
        self._bodies.append(message.body)

    def announce(self, body: bytes) -> None:
        """Send an announcement to all hosts, and a heartbeat to the broker; called each second.

        Args:
            body: the body of the message, from Announcement.encode().

        Raises:
            BrokerOutage: the connection is lost.

        """
        with broker.outage(self._connection, self._topology.broker_url):
            message = self._channel.prepare_message(body, content_type=JSON)
            self._channel.basic_publish(message, self._exchange)
            send_heartbeat = getattr(self._raw, "send_heartbeat", None)
            if send_heartbeat is not None:
                send_heartbeat()

    def receive(self, seconds: float) -> list[Announcement]:
        """Wait some seconds; return the announcements of other hosts that have arrived.

        Messages that were not sent by a host are ignored.

        Args:
            seconds: how long to wait; the call takes this time also if announcements arrive.

        Raises:
            BrokerOutage: the connection is lost.

        """
        deadline = self._clock.monotonic() + seconds
        with broker.outage(self._connection, self._topology.broker_url):
            self._raw.take_arrived()
            while (remaining := deadline - self._clock.monotonic()) > 0:
                try:
                    self._raw.drain_events(timeout=remaining)
                except TimeoutError:
                    break
            bodies, self._bodies = self._bodies, []
            return [
                one for one in map(decode, bodies) if one is not None and self._is_from_host(one)
            ]

    def _is_from_host(self, announcement: Announcement) -> bool:
        """Whether another host has sent an announcement; other programs can send messages, too.

        The announcement of a host names the queue of the host. Such a queue is exclusive to the
        connection of its host, so the announcement of another program does not name one.
        """
        queue = announcement.queue
        if queue in self._queues_of_hosts:
            return True
        if queue == self.queue or not queue.startswith(f"{self._exchange}."):
            return False
        if lookups.is_exclusive_to_another(self._raw, queue):
            self._queues_of_hosts.add(queue)
        return queue in self._queues_of_hosts

    def close(self) -> None:
        """Close the connection; the broker then deletes the queue of this host."""
        broker.close(self._connection)
