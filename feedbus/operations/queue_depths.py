"""What the operations process reads from the broker, on connections of its own.

It reads the depths of queues, the number of delayed messages, the last firing of each schedule, and
whether the broker accepts messages. Each result is used for 1 to 10 seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker.timer import DelayedCounts
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage, Outage
from feedbus.generations.queue_depths import Depths, depths_of
from feedbus.schedules.fired_moment import fired_moments
from feedbus.topology import Topology

# How long each result is used before the broker is asked again.
FRESH_SECONDS = 1.0  # queue depths
# Delayed messages: a read needs a request for each queue of the timer, in which they wait.
DELAYED_FRESH_SECONDS = 10.0
# The last firings of schedules: a read takes messages of the scheduler out of their queues, so the
# scheduler waits during a read.
FIRED_FRESH_SECONDS = 5.0
REFUSAL_FRESH_SECONDS = 5.0  # whether the broker accepts messages: a read needs a new connection

Counts = Mapping[str, Depths]  # maps each consumer to the depths of its queues
Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """Keeps the answer of a function, and calls the function again when the answer is too old.

    QueueDepths has a Remembered object for each kind of answer. Several threads can use one object.
    """

    def __init__(self, ask: Callable[[], Answer], fresh_seconds: float) -> None:
        """Create the object without an answer; the first read() calls `ask`.

        Args:
            ask: returns the answer.
            fresh_seconds: the age above which read() calls `ask` again.

        """
        self._ask = ask
        self._fresh_seconds = fresh_seconds
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
        self._asked_at = 0.0

    def read(self) -> Answer:
        """Return the remembered answer, or call `ask` if there is none or if it is too old.

        If `ask` raises an error, this method raises it, too. After an error, the next call of this
        method calls `ask` again.
        """
        with self._lock:
            if not self._answers or time.monotonic() - self._asked_at > self._fresh_seconds:
                self._answers = [self._ask()]
                self._asked_at = time.monotonic()
            return self._answers[0]


class QueueDepths:
    """Reads queue depths and other numbers of a topology from the broker, for HTTP requests.

    The operations process has one QueueDepths object, as a `with` block. Its threads share the
    object. The object keeps one connection for the numbers of messages, and connects again after an
    outage. Each other read uses a new connection. Each answer is used for 1 to 10 seconds.
    """

    def __init__(self, topology: Topology) -> None:
        """Create the object; the first read opens the connection."""
        self._topology = topology
        self._lock = threading.Lock()
        self._connection: broker.Connection | None = None
        self._counts = self._remember(
            lambda connection: depths_of(connection, topology), FRESH_SECONDS
        )
        self._delayed = self._remember(
            lambda connection: timer.count_delayed(connection, Names(topology)),
            DELAYED_FRESH_SECONDS,
        )
        self._fired = Remembered(self._read_fired, FIRED_FRESH_SECONDS)
        self._refusal = Remembered(lambda: broker.refusal(topology), REFUSAL_FRESH_SECONDS)

    def _remember(
        self, question: Callable[[Any], Answer], fresh_seconds: float
    ) -> Remembered[Answer]:
        return Remembered(lambda: self._ask(question), fresh_seconds)

    def read(self) -> Counts:
        """Return the queue depths of each consumer, by its name; they are at most 1 s old.

        Raises:
            Outage: the broker is unavailable.

        """
        return self._counts.read()

    def delayed_counts(self) -> DelayedCounts:
        """Return how many delayed messages wait, and how many are due but could not be delivered.

        The numbers are at most 10 s old.

        Raises:
            Outage: the broker is unavailable.

        """
        return self._delayed.read()

    def last_firings(self) -> Mapping[str, datetime]:
        """Return the time of the last firing of each schedule, by the schedule's name.

        For a schedule that was not fired yet, it is the time at which the schedule was first
        checked.

        Raises:
            Outage: the broker is unavailable.

        """
        return self._fired.read()

    def refusal(self) -> str:
        """Return why the broker accepts no messages now; "" if the broker accepts messages.

        Raises:
            Outage: the broker is unavailable.

        """
        return self._refusal.read()

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection; a later read connects again."""
        with self._lock:
            self._drop()

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        """Return the result of `question`, which gets the connection; connect if necessary.

        Raises:
            Outage: the question has failed. The connection is closed.

        """
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = broker.connect(self._topology, broker.HeartbeatSource.NONE)
                with broker.outage(self._connection, self._topology.broker_url):
                    return question(self._connection)
            except Outage:
                self._drop()
                raise
            except Exception as error:
                # After an error, the connection may be in any state, so it is not used again.
                self._drop()
                msg = f"broker {self._topology.broker_url}: {error}"
                raise BrokerOutage(msg) from error

    def _read_fired(self) -> Mapping[str, datetime]:
        topology = self._topology
        # The last firing of a schedule is in a message on the broker. A read takes this message out
        # of its queue for a moment. If the connection is lost in this moment, the broker returns
        # the message. This connection has heartbeats, so the broker notices the loss soon.
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
        ):
            return fired_moments(connection, topology)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            broker.close(connection)
