"""Deliveries that are handled at once: what is noted of them, and which may be acknowledged."""

from __future__ import annotations

import math
import select
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from feedbus.errors import Outage
from feedbus.runner.reading import Reading
from feedbus.runner.settlement import Settlement
from feedbus.runner.suspects import Suspects
from feedbus.wire import Delivery

if TYPE_CHECKING:
    from feedbus.dispatch.concurrent import ConcurrentCalls


class Concurrent:
    """The deliveries of one consumer from the time when they are opened until they are settled."""

    def __init__(self, calls: ConcurrentCalls, suspects: Suspects, seconds: float) -> None:
        """Note in suspects what is handled, and that each may take so many seconds."""
        self._calls = calls
        self._suspects = suspects
        self._seconds = seconds
        self._arrived_at: dict[tuple[str, int], float] = {}
        self._settlements: defaultdict[str, Settlement] = defaultdict(Settlement)

    def __len__(self) -> int:
        """Count the deliveries."""
        return len(self._arrived_at)

    @property
    def running(self) -> bool:
        """Whether any record has begun and is not finished."""
        return bool(self._calls.running)

    @property
    def hungry(self) -> bool:
        """Whether more records could be handled at once than there are."""
        return self._calls.hungry

    @property
    def unfinished(self) -> bool:
        """Whether finish() has something to do."""
        return self._calls.unfinished

    def take_outage(self) -> Outage | None:
        """Return, once, what records met in the latest finish(), so that they are to run again."""
        outage, self._calls.outage = self._calls.outage, None
        return outage

    @property
    def oldest_at(self) -> float:
        """When the first of the deliveries came, infinity without any."""
        return next(iter(self._arrived_at.values()), math.inf)

    def fileno(self) -> int:
        """Return a descriptor that can be read when a record has ended."""
        return self._calls.waker.fileno()

    def note(self) -> None:
        """Note what handlers have now; to be called often, so that what has ended is left out."""
        works = self._calls.in_handlers
        if not works:
            self._suspects.release()
            return
        now = time.monotonic()
        ids = dict.fromkeys(work.part.opened.delivery.message_id for work in works)
        begun = min((work.started_at for work in works if work.started_at), default=now)
        self._suspects.take(list(ids), begun + self._seconds - now)

    def look(self) -> None:
        """Log an async handler that blocks the event loop; to be called often."""
        self._calls.look()

    def wait(self, seconds: float) -> None:
        """Wait until a record has ended, at most so long."""
        select.select([self.fileno()], [], [], seconds)

    def open(self, delivery: Delivery, arrived_at: float) -> None:
        """Take a delivery that has come after all others; as ConcurrentCalls.open()."""
        self._arrived_at[delivery.consumer_tag, delivery.tag] = arrived_at
        self._settlements[delivery.consumer_tag].arrived(delivery.tag)
        self._calls.open([delivery])

    def start(self) -> None:
        """Begin what may begin now; as ConcurrentCalls.open()."""
        self._calls.open(())
        works = self._calls.take()
        if works:
            self.note()
            self._calls.start(works)

    def finish(self) -> list[Delivery]:
        """Return the deliveries that are done, now; as ConcurrentCalls.finish()."""
        if not self._calls.unfinished:
            self._calls.waker.sleep()
            if not self._calls.unfinished:
                return []
        settled = self._calls.finish()
        for delivery in settled:
            self._settlements[delivery.consumer_tag].done(delivery.tag)
            self._arrived_at.pop((delivery.consumer_tag, delivery.tag), None)
        self.note()
        return settled

    def settle(self, readings: Mapping[str, Reading]) -> None:
        """Acknowledge what is done."""
        for consumer_tag, settlement in self._settlements.items():
            reading = readings.get(consumer_tag)
            if reading is not None:
                reading.settle_done(settlement)

    def abandon(self) -> None:
        """Wait until nothing runs, and forget all: what is not settled is delivered again."""
        while self._calls.running:
            self._calls.forget()
            if self._calls.running:
                self.wait(1.0)
                self._calls.waker.sleep()
                self.note()
        self._calls.forget()
        self._arrived_at.clear()
        self._settlements.clear()
        self._suspects.release()

    def close(self) -> None:
        """End the threads."""
        self.abandon()
        self._calls.close()
