"""RabbitMQ: a single node, or a cluster whose nodes are tried one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection

from feedbus.broker.channels import short_channel
from feedbus.broker.connection_without_reconnect import SingleConnection
from feedbus.broker.interface import HeartbeatSource, SeenBinding, SeenExchange, SeenQueue, Survey
from feedbus.broker.locks import hold_queue
from feedbus.broker.outages import close, drop_connection, open_connection, outage
from feedbus.broker.rabbitmq import alarms, management
from feedbus.broker.rabbitmq.tls import amqp_options
from feedbus.broker.rabbitmq.transport import Transport
from feedbus.broker_names import lock_queue
from feedbus.clock import SYSTEM, Clock
from feedbus.errors import BrokerOutage, WrongBrokerSettings
from feedbus.process.slow_server_notices import notices
from feedbus.urls import BrokerUrl, ManagementUrl, Node
from feedbus.wire import amqp_protocols

CONNECT_TIMEOUT_SECONDS = 5.0
WRITE_TIMEOUT_SECONDS = 20  # the limit of a write to a broker that is short of memory or disk space
# RabbitMQ drops a silent connection after two to three intervals, here 24 to 36 s.
HEARTBEAT_SECONDS = 12.0
TCP_USER_TIMEOUT_MILLISECONDS = 30_000
# The number of the socket option on Linux. Other systems do not have this option.
TCP_USER_TIMEOUT = 18
# How long a message that RabbitMQ has routed can take to arrive in its queue. feedbus waits for
# this time after it has unbound a queue. It also waits between two probes, which are messages by
# which a consumer proves that a queue is empty. A message that was routed before the wait has then
# arrived.
IN_FLIGHT_SECONDS = 0.2
# For up to 3 s, RabbitMQ keeps the identity of a new quorum queue only in memory (ra_directory, a
# DETS table). For up to 2 s, RabbitMQ 3 also keeps the queue itself only in memory (Mnesia's log).
# If RabbitMQ is killed in this time, the identity is lost, and the queue starts again without its
# messages.
QUEUE_WRITTEN_SECONDS = 5.0
# A queue reports its statistics every 5 s, and the management API collects them every 5 s. Both are
# RabbitMQ's default intervals.
STATISTICS_AGE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """Implements the interface Broker for a RabbitMQ node or cluster with its management API.

    Attributes:
        url: the URL of the broker in the topology, with one or more nodes.
        management_url: the configured URL of the management API; None for the default port on each
            node.
        has_many_hosts: is True, because consumers of several hosts can use the broker.
        in_flight_seconds: how long a message that RabbitMQ has routed can take to arrive in its
            queue.
        queue_written_seconds: how long a queue can be missing on RabbitMQ's disk after it was
            declared.
        clock: the clock by which all users of the broker wait and measure times.
    """

    url: BrokerUrl
    management_url: ManagementUrl | None = None
    has_many_hosts: bool = True
    in_flight_seconds: float = IN_FLIGHT_SECONDS
    queue_written_seconds: float = QUEUE_WRITTEN_SECONDS
    clock: Clock = SYSTEM

    def load(self) -> None:
        """Do nothing: this module has imported the transport."""

    def connect(self, heartbeats: HeartbeatSource) -> Connection:
        """Connect to the first node that answers.

        Args:
            heartbeats: which code sends the heartbeats of the connection.

        Raises:
            WrongBrokerSettings: each node refuses the connection, so only an operator can help.
            BrokerOutage: no node accepts the connection, but one of them may accept it later.
        """
        may_answer_later = False
        seconds = CONNECT_TIMEOUT_SECONDS * len(self.url.nodes)
        with notices.during(f"waiting for broker {self.url} to answer, at most {seconds:.0f} s"):
            for node in self.url.nodes:
                try:
                    return open_connection(_connection(node, heartbeats), node)
                except WrongBrokerSettings as error:
                    last_error: BrokerOutage = error
                except BrokerOutage as error:
                    last_error, may_answer_later = error, True
        if may_answer_later and isinstance(last_error, WrongBrokerSettings):
            raise BrokerOutage(str(last_error)) from last_error
        raise last_error

    def locked(
        self, connection: amqp_protocols.Connection, project: str, wait_seconds: float
    ) -> AbstractContextManager[None]:
        """Hold the project's lock in a `with` block: a queue that is exclusive to the connection.

        Args:
            connection: the connection that gets the lock.
            project: the name of the project.
            wait_seconds: how long to wait if another connection holds the lock.

        Raises:
            UsageError: another connection holds the lock for longer than wait_seconds.
        """
        return hold_queue(connection, lock_queue(project), self.clock, wait_seconds)

    def survey(self, prefixes: tuple[str, ...]) -> Survey:
        """Return the objects that the management API lists; AMQP gives the message counts.

        The method connects by AMQP first. So if the broker is unavailable, the error names the
        broker, and not the management API. Queues that are exclusive to a connection are left out.

        Args:
            prefixes: queues whose names begin with none of these texts are left out.

        Raises:
            BrokerOutage: the broker is unavailable.
            UsageError: the management API does not answer, or refuses this user.
        """
        with self.connect(HeartbeatSource.NONE) as connection, outage(connection, self.url):
            return self._surveyed(connection, prefixes)

    def _surveyed(self, connection: Connection, prefixes: tuple[str, ...]) -> Survey:
        queues = {
            one["name"]: (
                one["arguments"],
                int(one.get("messages_unacknowledged", 0)),
                int(one.get("messages_dlx", 0)),
            )
            for one in self._listed("queues")
            if one["name"].startswith(prefixes) and one.get("owner_pid_details") is None
        }
        return Survey(
            [
                SeenExchange(one["name"], one["type"], one["arguments"])
                for one in self._listed("exchanges")
            ],
            _counted(connection, queues),
            [
                SeenBinding(
                    one["source"],
                    "queue" if one["destination_type"] == "queue" else "exchange",
                    one["destination"],
                    one["routing_key"],
                    one["arguments"],
                )
                for one in self._listed("bindings")
            ],
            STATISTICS_AGE_SECONDS,
        )

    def refusal(self) -> str:
        """Return why RabbitMQ accepts no messages now, or "" if it accepts messages.

        The operations process and `feedbus status` use it.

        Raises:
            BrokerOutage: the broker is unavailable.
        """
        connection = self.connect(HeartbeatSource.NONE)
        with outage(connection, self.url):
            found = alarms.refusal(connection.connection)
        if found:
            drop_connection(connection)  # during an alarm, the broker would not answer a close
        else:
            close(connection)
        return found

    def _listed(self, kind: management.ListedKind) -> list[dict[str, Any]]:
        return management.listed(self.url, self.management_url, kind)


def _counted(
    connection: Connection, listed: Mapping[str, tuple[Mapping[str, Any], int, int]]
) -> list[SeenQueue]:
    """Return the queues of the management API with the message counts that AMQP reports now.

    Args:
        connection: an open connection.
        listed: maps the name of a queue to its arguments, its unacknowledged messages, and its
            messages that no other queue has accepted yet (see SeenQueue.unacknowledged).

    """
    from amqp.exceptions import ChannelError

    counted = []
    for name, (arguments, unacknowledged, expired) in listed.items():
        try:
            with short_channel(connection) as channel:
                counts = channel.queue_declare(name, passive=True)
        except ChannelError:  # the queue was deleted meanwhile, is exclusive, or its node is down
            continue
        if not counts.consumer_count:
            # The API's number is some seconds old. Without a consumer, the number is 0 now.
            unacknowledged = 0  # noqa: PLW2901 -- the better number
        counted.append(
            SeenQueue(
                name,
                arguments,
                counts.message_count,
                unacknowledged + expired,
                counts.consumer_count,
            )
        )
    return counted


def _connection(node: Node, heartbeats: HeartbeatSource) -> Connection:
    heartbeat_seconds = node.heartbeat_seconds or HEARTBEAT_SECONDS
    return SingleConnection(
        hostname=f"[{node.host}]" if ":" in node.host else node.host,
        port=node.port,
        userid=node.user,
        password=node.password,
        virtual_host=node.virtual_host,
        transport=Transport,
        ssl=amqp_options(node.tls, node.host, f"broker {node}") if node.tls else False,
        heartbeat=0 if heartbeats is HeartbeatSource.NONE else heartbeat_seconds,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        transport_options={
            "socket_settings": {TCP_USER_TIMEOUT: TCP_USER_TIMEOUT_MILLISECONDS},
            "confirm_publish": False,
            "write_timeout": WRITE_TIMEOUT_SECONDS,
            "background_heartbeats": heartbeats is HeartbeatSource.BACKGROUND,
        },
    )
