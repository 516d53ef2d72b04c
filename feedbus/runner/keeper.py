"""A thread beside the handler: heartbeats while it works, and an end when it hangs."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from feedbus.topology import Consumer

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BEAT_SECONDS = 5.0
EXIT_HUNG = 70
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Keeper:
    """Watches one consumer's handler."""

    def __init__(self, consumer: Consumer) -> None:
        """Let the handler take as long as its queue allows."""
        self._consumer = consumer
        self._working_since: float | None = None
        self._message_id = ""
        self._connection: Any = None
        self._last_beat = 0.0
        self._over = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._over.set()
        self._begun.set()
        self._thread.join()

    @contextlib.contextmanager
    def keeping(self, connection: Any) -> Iterator[None]:
        """Send this connection's heartbeats while a handler works."""
        self._connection = connection
        try:
            yield
        finally:
            self._connection = None

    @contextlib.contextmanager
    def watching(self, message_id: str) -> Iterator[None]:
        """Watch the handler while it works on a message."""
        self._message_id = message_id
        self._working_since = time.monotonic()
        self._begun.set()
        try:
            yield
        finally:
            self._working_since = None

    def memory_above(self, limit_bytes: int) -> bool:
        """Whether this process holds more memory than that."""
        try:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
        except OSError:
            return False  # no /proc here: the hard limit alone holds
        return resident > limit_bytes

    def beat(self, connection: Any) -> None:
        """Send a heartbeat when one is due, on a connection that has them."""
        now = time.monotonic()
        send = getattr(getattr(connection, "connection", None), "send_heartbeat", None)
        if send is None or now - self._last_beat < BEAT_SECONDS:
            return
        self._last_beat = now
        with contextlib.suppress(OSError, AttributeError):
            send()  # a broken connection is the consuming loop's to find

    def _watch(self) -> None:
        while not self._over.is_set():
            # Asleep while no handler works: an idle consumer costs nothing.
            self._begun.wait()
            self._over.wait(LOOK_SECONDS)
            since, now = self._working_since, time.monotonic()
            if since is None:
                self._begun.clear()
                if self._working_since is not None or self._over.is_set():
                    self._begun.set()
                continue
            if now - since > self._consumer.queue.handler_timeout_seconds:
                self._end(now - since)
            self.beat(self._connection)

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
