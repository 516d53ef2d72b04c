"""A thread beside the handler: heartbeats while it works, and an end when it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

from feedbus.topology import Consumer

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BEATS_AN_INTERVAL = 4  # the broker drops a connection after two intervals without one
EXIT_HUNG = 70
STATM_BYTES = 200
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Keeper:
    """Watches one consumer's handler."""

    def __init__(self, consumer: Consumer) -> None:
        """Let the handler take as long as its queue allows."""
        self._consumer = consumer
        self._working_since: float | None = None
        self._message_id = ""
        self._raw: Any = None
        self._last_beat = 0.0
        self._memory: int | None = None
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        with contextlib.suppress(OSError):
            self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._over.set()
        self._begun.set()
        self._thread.join()
        if self._memory is not None:
            os.close(self._memory)
            self._memory = None

    @contextlib.contextmanager
    def keeping(self, connection: Any) -> Iterator[None]:
        """Send this connection's heartbeats while a handler works."""
        self._raw = connection.connection
        try:
            yield
        finally:
            self._raw = None

    @contextlib.contextmanager
    def watching(self, message_id: str) -> Iterator[None]:
        """Watch the handler while it works on a message."""
        self._message_id = message_id
        self._working_since = time.monotonic()
        self._begun.set()
        try:
            yield
        finally:
            # Two threads that write at once would mix up their frames: from here on it is ours.
            with self._writing:
                self._working_since = None

    def memory_above(self, limit_bytes: int) -> bool:
        """Whether this process holds more memory than that."""
        if self._memory is None:
            return False  # no /proc here: the hard limit alone holds
        resident = int(os.pread(self._memory, STATM_BYTES, 0).split()[1]) * PAGE_BYTES
        return resident > limit_bytes

    def wait(self, over: threading.Event, seconds: float) -> None:
        """Wait until something is over, sending this connection's heartbeats meanwhile."""
        deadline = time.monotonic() + seconds
        while not over.wait(min(max(deadline - time.monotonic(), 0), self._look_seconds())):
            if time.monotonic() >= deadline:
                return
            self._beat(self._raw)

    def beat(self, connection: Any) -> None:
        """Send a heartbeat when one is due, on a connection that has them."""
        self._beat(connection.connection)

    def _beat(self, raw: Any) -> None:
        now = time.monotonic()
        if now - self._last_beat < _interval_seconds(raw) / BEATS_AN_INTERVAL:
            return
        self._last_beat = now
        with contextlib.suppress(OSError, AttributeError):
            raw.send_heartbeat()  # a broken connection is the consuming loop's to find

    def _watch(self) -> None:
        while not self._over.is_set():
            # Asleep while no handler works: an idle consumer costs nothing.
            self._begun.wait()
            self._over.wait(self._look_seconds())
            since, now = self._working_since, time.monotonic()
            if since is None:
                self._begun.clear()
                if self._working_since is not None or self._over.is_set():
                    self._begun.set()
                continue
            if now - since > self._consumer.queue.handler_timeout_seconds:
                self._end(now - since)
            with self._writing:
                if self._working_since is not None:
                    self._beat(self._raw)

    def _look_seconds(self) -> float:
        return min(LOOK_SECONDS, _interval_seconds(self._raw) / BEATS_AN_INTERVAL)

    def _end(self, seconds: float) -> None:
        """End a process whose handler hangs; its deliveries go back to the broker."""
        log.critical(
            "%s hangs on %s for %.0f s: ending it; where it hangs follows",
            self._consumer.name,
            self._message_id,
            seconds,
        )
        faulthandler.dump_traceback(sys.stderr)
        os._exit(EXIT_HUNG)


def _interval_seconds(raw: Any) -> float:
    """Return what was agreed with the broker, infinity where there are no heartbeats."""
    agreed: float = getattr(raw, "heartbeat", None) or math.inf
    return agreed if hasattr(raw, "send_heartbeat") else math.inf
