"""Run one consumer until told to stop: subscribe, collect a batch, dispatch it, settle it."""

from __future__ import annotations

import logging
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from feedbus import broker
from feedbus.broker import generations
from feedbus.bus.sender import Sender
from feedbus.dispatch import Dispatch
from feedbus.errors import Outage
from feedbus.handling import Handler
from feedbus.metrics import Metrics, Part
from feedbus.runner.buffer import Buffer
from feedbus.runner.drain import Drain, Source
from feedbus.runner.keeper import Keeper
from feedbus.runner.placement import Placement
from feedbus.runner.reading import Reading
from feedbus.runner.suspects import DEATHS_ALLOWED, Suspects
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LONG_POLL_SECONDS = 5.0
BARRIER_POLL_SECONDS = 0.1
HERE_SECONDS = 0.0001  # for what has arrived already
BACKOFF_FIRST_SECONDS = 0.1
BACKOFF_LAST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a runner ends by itself; None is never.

    Attributes:
        max_messages: deliveries handled.
        idle_timeout_seconds: since anything came.
        max_runtime_seconds: since the start.
        memory_limit_bytes: resident after a batch; a leak ends here, not in the kernel's killer.

    """

    max_messages: int | None = None
    idle_timeout_seconds: float | None = None
    max_runtime_seconds: float | None = None
    memory_limit_bytes: int | None = None


class Runner:
    """One consumer in the foreground."""

    def __init__(  # noqa: PLR0913 -- a run's parts, each given by name
        self,
        topology: Topology,
        consumer: Consumer,
        handler: Handler,
        *,
        limits: Limits,
        metrics: Metrics,
        suspects: Suspects,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """Take all that a run needs; on_ready is called once the consumer has subscribed."""
        self._topology = topology
        self._consumer = consumer
        self._limits = limits
        self._suspects = suspects
        self._on_ready: Callable[[], None] | None = on_ready
        self._metrics = metrics.consumer(consumer.name)
        self._sender = Sender(topology, metrics)
        self._dispatch = Dispatch(topology, consumer, handler, self._sender, self._metrics)
        self._placement = Placement(topology)
        self._keeper = Keeper(consumer)
        self._buffer = Buffer()
        self._handled = 0
        self._started = self._last_arrival = time.monotonic()
        self._last_batch = -math.inf
        self._told_to_stop = threading.Event()
        self._failures = 0
        self._passed: str | None = None
        self._reading: dict[str, Reading] = {}

    def stop(self) -> None:
        """Ask for a clean end: what is in hand is settled, the rest goes back."""
        self._told_to_stop.set()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Stop cleanly on SIGTERM and SIGINT."""

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        earlier = {
            number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, action in earlier.items():
                signal.signal(number, action)

    def run(self) -> str:
        """Consume until a limit or a signal ends it; return which, in words."""
        with self._keeper:
            try:
                while (reason := self._ended()) is None:
                    try:
                        self._consume()
                    except Outage as error:
                        self._hold("broker", error)
            finally:
                self._sender.close()
        return reason

    def _consume(self) -> None:
        """Subscribe on a connection of its own and handle what comes, until it ends or breaks."""
        self._buffer.clear()
        states = generations.known(self._topology)
        for state in states.values():
            self._sender.encoder.lead(state.current)
        self._placement.follow(states.values())
        connection = broker.connect(self._topology, beating=True)

        def pause() -> bool:
            self._tell_ready()  # it is here, though others have to end before it begins
            self._keeper.beat(connection)
            return not self._told_to_stop.wait(BARRIER_POLL_SECONDS) and self._ended() is None

        try:
            with (
                broker.outage(connection, self._topology.broker_url),
                self._keeper.keeping(connection),
            ):
                drain = Drain(self._topology, self._consumer, states, pause)
                self._passed = drain.over(connection)
                if self._passed is not None:
                    return
                for queues in drain.queues(connection):
                    self._consume_from(connection, queues)
                    if self._ended() is not None:
                        return
        except connection.channel_errors as error:
            msg = f"broker: {error}"
            raise Outage(msg) from error
        finally:
            broker.close(connection)

    def _consume_from(self, connection: Any, queues: Sequence[Source]) -> None:
        """Consume until a limit, or until each of the queues is at its fence or gone."""
        cancelled: list[str] = []
        self._reading = {}
        left = list(queues)
        # Who has not begun to read is not idle, however long it took to connect.
        self._last_arrival = time.monotonic()
        while (left or self._reading) and self._ended() is None:
            left = [source for source in left if not self._subscribe(connection, source, cancelled)]
            self._tell_ready()
            self._failures = 0
            if self._collect(connection):
                if self._buffer.at_fence:
                    self._pass_fence()
                else:
                    self._handle()
            for reading in [each for each in self._reading.values() if each.fenced]:
                self._end(reading)
            # Deleted by another consumer, or moved by the broker: see anew what there is.
            while cancelled:
                self._drop(cancelled.pop())
        for reading in self._reading.values():
            reading.close()
        # What is left in hand went back with its channel.
        self._buffer.clear()

    def _tell_ready(self) -> None:
        if self._on_ready is not None:
            self._on_ready()
            self._on_ready = None

    def _subscribe(self, connection: Any, source: Source, cancelled: list[str]) -> bool:
        """Begin to read a queue; False while it has to be had alone and somebody has it."""
        queue = self._consumer.queue
        tag = f"{self._consumer.name}.{source.queue}"
        reading = Reading.begin(
            connection,
            source.queue,
            tag=tag,
            prefetch=max(queue.prefetch, min(queue.batch.size, 1000)),
            exclusive=source.exclusive,
            on_message=self._on_message,
            on_cancel=cancelled.append,
        )
        if reading is not None:
            self._reading[tag] = reading
        return reading is not None

    def _drop(self, tag: str) -> None:
        """Read a queue no more; what is in hand of it went back, or went with it."""
        reading = self._reading.pop(tag, None)
        if reading is not None:
            reading.close()
        self._buffer.drop(tag)

    def _pass_fence(self) -> None:
        fence = self._buffer.pop()
        reading = self._reading.get(fence.consumer_tag)
        if reading is not None:
            reading.pass_fence(fence.tag)

    def _end(self, reading: Reading) -> None:
        """Delete a queue that has been read to its fence, unless more has come behind it."""
        if reading.end(lambda: self._buffer.holds(reading.tag)):
            del self._reading[reading.tag]

    def _on_message(self, message: Any) -> None:
        self._buffer.add(Delivery.of(message))
        self._last_arrival = time.monotonic()

    def _collect(self, connection: Any) -> bool:
        """Wait for a batch: full, or the last one began long enough ago and no more came.

        So a record that comes alone is handled at once, and those that come fast gather while the
        batch before them is handled.
        """
        batch = self._consumer.queue.batch
        deadline = time.monotonic() + self._patience(connection)
        if self._buffer:
            deadline = time.monotonic()
        while self._buffer.records < batch.size and not self._told_to_stop.is_set():
            had = bool(self._buffer)
            try:
                connection.drain_events(timeout=max(deadline - time.monotonic(), HERE_SECONDS))
            except TimeoutError:
                break
            if self._buffer and not had:
                deadline = self._last_batch + batch.wait_seconds
        self._keeper.beat(connection)
        return bool(self._buffer)

    def _patience(self, connection: Any) -> float:
        """Return how long to wait for a delivery: until a limit, or until a signal may be seen."""
        wakes = getattr(connection.transport, "wakes_on_signals", False)
        now, limits = time.monotonic(), self._limits
        return max(
            min(
                LONG_POLL_SECONDS if wakes else POLL_SECONDS,
                self._last_arrival + (limits.idle_timeout_seconds or math.inf) - now,
                self._started + (limits.max_runtime_seconds or math.inf) - now,
            ),
            0.001,
        )

    def _handle(self) -> None:
        size, most = self._consumer.queue.batch.size, self._limits.max_messages or math.inf
        deliveries = self._buffer.take(size, most - self._handled, self._suspects.suspected)
        if not deliveries:
            return
        ids = [delivery.message_id for delivery in deliveries]
        self._last_batch = time.monotonic()
        deaths = self._suspects.deaths(ids[0])
        self._suspects.take(ids)
        while True:
            try:
                with self._keeper.watching(ids[0]):
                    if deaths >= DEATHS_ALLOWED:
                        reason = f"its consumer died {deaths} times with this message in hand"
                        log.error("%s gives up %s: %s", self._consumer.name, ids[0], reason)
                        self._dispatch.give_up(deliveries[0], reason)
                    else:
                        self._dispatch.handle(deliveries)
                break
            except Outage as error:
                part: Part = "store" if str(error).startswith("store") else "broker"
                self._hold(part, error)
                if self._told_to_stop.is_set():
                    self._suspects.release()
                    return
        # Settle last: if publishing failed, the broker must still own the deliveries.
        latest = {delivery.consumer_tag: delivery.tag for delivery in deliveries}
        for consumer_tag, tag in latest.items():
            self._reading[consumer_tag].settle(tag)
        self._suspects.release(settled=True)
        self._sample(deliveries[0])
        self._failures = 0
        self._handled += len(deliveries)

    def _sample(self, delivery: Delivery) -> None:
        """Look whether a batch's first record came to the shard that owns it."""
        reading, key = self._reading.get(delivery.consumer_tag), self._dispatch.first_key
        if (
            reading is not None
            and key is not None
            and self._placement.misplaced(reading.queue, delivery, key)
        ):
            self._metrics.misplaced()

    def _hold(self, part: Part, error: Outage) -> None:
        """Wait before the next attempt, longer each time, while the store or the broker is away."""
        if not self._failures:
            self._metrics.outage(part)
        longest = min(BACKOFF_FIRST_SECONDS * 2**self._failures, BACKOFF_LAST_SECONDS)
        seconds = random.uniform(longest / 2, longest)  # noqa: S311 -- jitter, not a secret
        log.warning("%s holds for %.1f s: %s", self._consumer.name, seconds, error)
        self._failures += 1
        self._keeper.wait(self._told_to_stop, seconds)
        self._metrics.held(part, seconds)

    def _ended(self) -> str | None:
        """Return why the run is over, None while it is not."""
        now, limits = time.monotonic(), self._limits
        idle_seconds = 0.0 if self._buffer else now - self._last_arrival
        memory_limit = limits.memory_limit_bytes
        reason = None
        if self._told_to_stop.is_set():
            reason = "told to stop"
        elif self._passed is not None:
            reason = self._passed
        elif self._handled >= (limits.max_messages or math.inf):
            reason = f"handled {self._handled} messages"
        elif now - self._started >= (limits.max_runtime_seconds or math.inf):
            reason = f"ran for {limits.max_runtime_seconds:g} s"
        elif idle_seconds >= (limits.idle_timeout_seconds or math.inf):
            reason = f"idle for {limits.idle_timeout_seconds:g} s"
        elif memory_limit is not None and self._keeper.memory_above(memory_limit):
            reason = "above its memory limit"
        return reason
