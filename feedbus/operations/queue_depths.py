"""Queue depths and the last firing of schedules, read on a separate connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Self, TypeVar

from feedbus import broker
from feedbus.broker import timer
from feedbus.broker.timer import Delayed
from feedbus.broker_names import Names
from feedbus.errors import Outage
from feedbus.generations.queue_depths import Depths, depths_of
from feedbus.schedules.fired_moment import fired_moments
from feedbus.topology import Topology

FRESH_SECONDS = 1.0
DELAYED_FRESH_SECONDS = 10.0  # it needs a request for each queue of the timer
FIRED_FRESH_SECONDS = 5.0  # the scheduler waits while it is read
REFUSAL_FRESH_SECONDS = 5.0  # it needs a new connection each time

Counts = Mapping[str, Depths]
Answer = TypeVar("Answer")


class QueueDepths:
    """The depths of a topology's queues; requests share one reading for a second."""

    def __init__(self, topology: Topology) -> None:
        """Create it; the first read opens the connection."""
        self._topology = topology
        self._lock = threading.Lock()
        self._connection: broker.Connection | None = None
        self._counts: Counts = {}
        self._asked_at = self._refusal_at = float("-inf")
        self._delayed_at = float("-inf")
        self._delayed = Delayed()
        self._fired_at = float("-inf")
        self._fired: Mapping[str, datetime] = {}
        self._refusal = ""

    def read(self) -> Counts:
        """Return the depths for each consumer by name.

        Raises:
            Outage: the broker is unavailable.

        """
        with self._lock:
            if time.monotonic() - self._asked_at > FRESH_SECONDS:
                self._counts = self._ask(lambda connection: depths_of(connection, self._topology))
                self._asked_at = time.monotonic()
            return self._counts

    def delayed(self) -> Delayed:
        """Return the number of delayed messages.

        Raises:
            Outage: the broker is unavailable.

        """
        with self._lock:
            if time.monotonic() - self._delayed_at > DELAYED_FRESH_SECONDS:
                names = Names(self._topology)
                self._delayed = self._ask(lambda connection: timer.count(connection, names))
                self._delayed_at = time.monotonic()
            return self._delayed

    def fired(self) -> Mapping[str, datetime]:
        """Return the time of the last firing of each schedule.

        Raises:
            Outage: the broker is unavailable.

        """
        with self._lock:
            if time.monotonic() - self._fired_at > FIRED_FRESH_SECONDS:
                self._fired = self._ask(
                    lambda connection: fired_moments(connection, self._topology)
                )
                self._fired_at = time.monotonic()
            return self._fired

    def refusal(self) -> str:
        """Return why the broker accepts no messages now, or "" if it does.

        Raises:
            Outage: the broker is unavailable.

        """
        with self._lock:
            if time.monotonic() - self._refusal_at > REFUSAL_FRESH_SECONDS:
                self._refusal = broker.refusal(self._topology)
                self._refusal_at = time.monotonic()
            return self._refusal

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection; a later read opens another."""
        with self._lock:
            self._drop()

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        try:
            if self._connection is None:
                self._connection = broker.connect(self._topology)
            with broker.outage(self._connection, self._topology.broker_url):
                return question(self._connection)
        except Outage:
            self._drop()
            raise
        except Exception as error:
            # After any error, the connection may be in any state.
            self._drop()
            msg = f"broker {self._topology.broker_url}: {error}"
            raise Outage(msg) from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            broker.close(connection)
