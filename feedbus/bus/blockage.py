"""What a publisher learns of a broker's alarm: told once in the log, and counted while it lasts."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from feedbus.metrics import Metrics
from feedbus.wire.amqp import RawConnection

log = logging.getLogger(__name__)


class Blockage:
    """Whether the broker, short of memory or disk, takes nothing from publishers.

    It outlives connections: a publisher that connects anew during an alarm tells nothing twice.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        """Count the time that is spent waiting in metrics."""
        self._metrics = metrics
        self._since: float | None = None
        self.active = False

    def watch(self, connection: RawConnection) -> None:
        """Learn of alarms on a connection (py-amqp's); a new one is not blocked at first."""
        self.active = False
        connection.on_blocked = self._on_blocked
        connection.on_unblocked = self._on_unblocked

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the time in the block as waited, where the broker blocks."""
        started, blocked = time.monotonic(), self.active
        try:
            yield
        finally:
            if blocked and self._metrics is not None:
                self._metrics.publisher_blocked(time.monotonic() - started)

    def over(self) -> None:
        """Tell that the broker takes messages again, if it did not before."""
        if self._since is not None and not self.active:
            log.warning(
                "the broker takes messages again, after %.1f s", time.monotonic() - self._since
            )
            self._since = None

    def _on_blocked(self, _reason: str) -> None:
        self.active = True
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "the broker blocks publishers, publishing waits: it is short of memory or disk "
                "(see `rabbitmqctl alarms` or its log)"
            )

    def _on_unblocked(self) -> None:
        self.active = False
