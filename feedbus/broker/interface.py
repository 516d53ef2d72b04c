"""The interface of a kind of broker: RabbitMQ, the embedded broker, or a broker in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal, Protocol

from kombu.connection import Connection

from feedbus.clock import Clock
from feedbus.wire import amqp_protocols

Kind = Literal["queue", "exchange"]


@dataclass(frozen=True, slots=True)
class SeenExchange:
    """An exchange that the broker has, as a survey has found it."""

    name: str
    type: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SeenQueue:
    """A queue that the broker has, as a survey has found it.

    Attributes:
        name: the name of the queue on the broker.
        arguments: the x-arguments.
        ready: the number of messages that no consumer has received.
        unacknowledged: the number of messages that consumers have received and not acknowledged.
            It includes the messages of a quorum queue that have expired, and that no other queue
            has accepted yet, for example retries for a full queue. This number can be older than
            the others, see Survey.
        consumers: the number of consumers.
    """

    name: str
    arguments: Mapping[str, Any]
    ready: int
    unacknowledged: int
    consumers: int

    @property
    def messages(self) -> int:
        """The number of messages: ready and unacknowledged ones."""
        return self.ready + self.unacknowledged


@dataclass(frozen=True, slots=True)
class SeenBinding:
    """A binding that the broker has, as a survey has found it.

    Attributes:
        source: the name of the exchange that sends the messages.
        kind: whether the destination is a "queue" or an "exchange".
        destination: the name of the queue or exchange that receives the messages.
        key: the binding key.
        arguments: the arguments of the binding.
    """

    source: str
    kind: Kind
    destination: str
    key: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Survey:
    """The exchanges, queues and bindings of a broker at one time; Broker.survey() makes it.

    Attributes:
        exchanges: the exchanges.
        queues: the queues.
        bindings: the bindings.
        unacknowledged_age_seconds: the largest age of the numbers of unacknowledged messages, which
            RabbitMQ reports late if a queue has consumers. 0 if these numbers are as new as the
            other numbers.
    """

    exchanges: Sequence[SeenExchange]
    queues: Sequence[SeenQueue]
    bindings: Sequence[SeenBinding]
    unacknowledged_age_seconds: float = 0.0


class HeartbeatSource(Enum):
    """The code that sends the heartbeats of a connection to RabbitMQ.

    If a connection has heartbeats, and the broker receives none for some time, the broker closes
    the connection. The other kinds of brokers need no heartbeats.

    Attributes:
        BACKGROUND: a thread of the connection. This is the choice for a connection that holds
            something for which other processes wait: the topology's lock, or messages.
        CALLER: the code that uses the connection. This code must send heartbeats also while it does
            other work.
        NONE: nothing: the connection is opened without heartbeats. If the host of the process
            fails, the broker may never detect that the connection is lost. So the connection must
            hold no lock and no messages.

    """

    BACKGROUND = auto()
    CALLER = auto()
    NONE = auto()


class Broker(Protocol):
    """The operations that feedbus needs from a kind of broker in addition to AMQP.

    RabbitMQ, the embedded broker and a broker in memory implement it. select_broker() makes an
    object from a topology each time that one is needed.
    """

    @property
    def clock(self) -> Clock:
        """The clock by which all users of the broker wait and measure times."""

    @property
    def in_flight_seconds(self) -> float:
        """How long a message that the broker has routed can take to arrive in its queue."""

    @property
    def has_many_hosts(self) -> bool:
        """Whether consumers of several hosts can use the broker."""

    @property
    def queue_written_seconds(self) -> float:
        """How long a queue can be missing on the broker's disk after it was declared.

        If the broker is killed before the queue is on the disk, messages of that queue can be lost,
        even confirmed ones.
        """

    def load(self) -> None:
        """Import the modules that connect() needs, without connecting.

        The process that forks the consumers calls it, so that the consumers start faster.
        """

    def connect(self, heartbeats: HeartbeatSource) -> Connection:
        """Return an open connection.

        Args:
            heartbeats: which code sends the heartbeats of the connection.

        Raises:
            BrokerOutage: the broker cannot be reached, or refuses the login.

        """

    def locked(
        self, connection: amqp_protocols.Connection, project: str, wait_seconds: float
    ) -> AbstractContextManager[None]:
        """Hold a project's lock during a `with` block.

        Only one connection can hold the lock at a time. If the process that holds the lock is
        killed, the lock is released.

        Args:
            connection: a connection to the broker.
            project: the name of the project.
            wait_seconds: how long to wait if another process holds the lock.

        Raises:
            UsageError: another process holds the lock for longer than wait_seconds.

        """

    def survey(self, prefixes: tuple[str, ...]) -> Survey:
        """Return the broker's exchanges, bindings and queues.

        Args:
            prefixes: queues whose names begin with none of these texts may be left out.

        Raises:
            BrokerOutage: the broker is unavailable, or its file cannot be read.
            UsageError: RabbitMQ's management API does not answer, or refuses this user.

        """

    def refusal(self) -> str:
        """Return why the broker accepts no messages now, or "" if it accepts messages.

        Raises:
            BrokerOutage: the broker is unavailable.

        """
