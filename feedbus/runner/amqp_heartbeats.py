"""A thread that sends the heartbeats of the consuming connection while a handler runs.

A handler runs in the consumer's thread, which can send no heartbeats meanwhile. At other times, the
consumer's thread sends the heartbeats itself.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from typing import Self

from feedbus.clock import Clock
from feedbus.wire.amqp_protocols import RawConnection

CHECK_SECONDS = 1.0  # the longest time between two checks whether a heartbeat is due
# A heartbeat is sent four times in each agreed interval. The broker closes a connection after two
# intervals without a heartbeat.
BEATS_PER_INTERVAL = 4


class Heartbeats:
    """Sends the heartbeats of a consumer's connection from a thread, while handlers run.

    While no handler runs, the consumer's thread itself calls wait() or beat(). The runner has one
    Heartbeats object and uses it as a context manager: the thread starts with the run, and ends
    with it. If the clock is virtual, as in tests, no thread is started.
    """

    def __init__(self, clock: Clock) -> None:
        """Create the object; __enter__() starts the thread."""
        self._clock = clock
        self._may_send = False  # whether the thread may send heartbeats
        self._raw: RawConnection | None = None
        self._last_beat = 0.0  # when the last heartbeat was sent
        # The longest time without a heartbeat since the start of the last while_working() block.
        self._longest_gap = 0.0
        self._write_lock = threading.Lock()  # held while the thread writes a frame
        self._end_requested = threading.Event()  # the thread ends
        self._wake_requested = threading.Event()  # the thread wakes up, because a handler runs
        self._thread = threading.Thread(target=self._send_regularly, name="heartbeats", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread, unless the clock is virtual."""
        if self._clock.takes_time:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._end_requested.set()
        self._wake_requested.set()
        if self._clock.takes_time:
            self._thread.join()

    @contextlib.contextmanager
    def on_connection(self, connection: RawConnection) -> Iterator[None]:
        """Send heartbeats on this connection, and on no other one, while a `with` block runs.

        The runner calls this for each new connection to the broker.

        Args:
            connection: the py-amqp connection on which the consumer reads its queues.

        """
        self._raw, self._last_beat = connection, self._clock.monotonic()
        try:
            yield
        finally:
            self._raw = None

    @contextlib.contextmanager
    def while_working(self) -> Iterator[None]:
        """Let the thread send heartbeats while a `with` block calls handlers.

        The runner's modes use it around each batch. In the block, only the thread may write to the
        connection, except within paused().
        """
        self._longest_gap = 0.0
        self._may_send = True
        self._wake_requested.set()
        try:
            yield
        finally:
            # The lock waits until the thread has written its current frame. The bytes of frames
            # that two threads write at the same time would be mixed up.
            with self._write_lock:
                self._may_send = False
            self._longest_gap = max(self._longest_gap, self._clock.monotonic() - self._last_beat)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the thread's heartbeats in a `with` block inside a while_working() block.

        The block can use the connection, and can call while_working() again.

        The block runs when a handler on a queue with `stream = true` pauses, and deliveries of
        other keys are handled.
        """
        with self._write_lock:
            self._may_send = False
        gap = self._longest_gap  # while_working() in the block sets it to 0
        try:
            yield
        finally:
            self._longest_gap = max(gap, self._longest_gap)
            self._may_send = True
            self._wake_requested.set()

    @property
    def missed_seconds(self) -> float:
        """The longest time without a heartbeat in the last while_working() block, in seconds.

        The value is 0 if this time was not longer than the interval of the heartbeats. The runner
        uses the value for the log line about a lost connection: a handler can block all threads of
        the process, so that no heartbeat is sent.
        """
        return self._longest_gap if self._longest_gap > _interval_seconds(self._raw) else 0.0

    def wait(self, over: threading.Event, seconds: float) -> None:
        """Wait until `over` is set, at most `seconds`; send heartbeats in the meantime.

        The consumer's thread calls this during an outage.

        Args:
            over: the event that ends the wait, such as the request to stop the run.
            seconds: the longest time to wait.

        """
        deadline = self._clock.monotonic() + seconds
        while not self._clock.wait(over, self._step_seconds(deadline)):
            if self._clock.monotonic() >= deadline:
                return
            self.beat()

    def beat(self) -> None:
        """Send a heartbeat if one is due and the connection has heartbeats.

        The consumer's thread calls this while it waits for deliveries, and the heartbeat thread
        while a handler runs. A lost connection raises no error here: the next read from it does.
        """
        raw, now = self._raw, self._clock.monotonic()
        gap = now - self._last_beat
        if gap < _interval_seconds(raw) / BEATS_PER_INTERVAL:
            return
        self._longest_gap = max(self._longest_gap, gap)
        self._last_beat = now
        send = getattr(raw, "send_heartbeat", None)
        if send is not None:
            with contextlib.suppress(OSError, AttributeError):
                send()  # the consuming loop handles a lost connection

    def _send_regularly(self) -> None:
        while not self._end_requested.is_set():
            # The thread sleeps while no handler runs, so an idle consumer needs no processor time.
            self._wake_requested.wait()
            self._end_requested.wait(self._check_seconds())
            if not self._may_send:
                # A handler may have started after the check, and before clear(). Then the thread
                # must not sleep.
                self._wake_requested.clear()
                if self._may_send or self._end_requested.is_set():
                    self._wake_requested.set()
                continue
            with self._write_lock:
                if self._may_send:
                    self.beat()

    def _step_seconds(self, deadline: float) -> float:
        return min(max(deadline - self._clock.monotonic(), 0), self._check_seconds())

    def _check_seconds(self) -> float:
        return min(CHECK_SECONDS, _interval_seconds(self._raw) / BEATS_PER_INTERVAL)


def _interval_seconds(raw: RawConnection | None) -> float:
    """Return the agreed interval of heartbeats in seconds; infinity without heartbeats."""
    agreed: float = getattr(raw, "heartbeat", None) or math.inf
    return agreed if hasattr(raw, "send_heartbeat") else math.inf
