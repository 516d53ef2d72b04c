"""The pause of a consumer during an outage: longer each time, with the reason logged once."""

from __future__ import annotations

from collections.abc import Callable

from feedbus.clock import Clock
from feedbus.errors import Outage, UsageError, unavailable_part
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.units import counted

events = EventLog(__name__)

FIRST_SECONDS = 0.1  # the first pause is at most this long; each next pause may be twice as long
LONGEST_SECONDS = 5.0  # no pause is longer
LOG_INTERVAL_SECONDS = 60.0  # equal lines within this time are logged once


class OutagePause:
    """Lets a consumer *hold*: it waits during an outage, longer after each failed attempt.

    A run has one OutagePause object.
    """

    def __init__(
        self,
        consumer: str,
        metrics: ConsumerMetrics,
        report: Callable[[str], None],
        clock: Clock,
    ) -> None:
        """Create the object; at first, there is no outage.

        Args:
            consumer: the name of the consumer, for the log.
            metrics: counts outages and their durations.
            report: called with the reason when the consumer holds, and with "" when it continues.
            clock: the clock that is used for waiting.

        """
        self._consumer = consumer
        self._metrics = metrics
        self._report = report
        self._clock = clock
        self._since = 0.0  # when the outage began
        # The latest log line, when it was written, and how often it was left out since then.
        self._last_line, self._logged_at, self._unlogged = "", 0.0, 0
        self.failures = 0  # the number of failed attempts since the last success
        self.latest_seconds = 0.0  # the length of the latest pause

    def hold(
        self, error: Outage | UsageError, wait: Callable[[float], None], max_seconds: float
    ) -> None:
        """Wait before the next attempt.

        The first call in an outage logs the reason. The same reason is not logged again for a
        while.

        Args:
            error: the error that ended the latest attempt.
            wait: a function that waits for the number of seconds that it gets. It returns earlier
                if the run must end.
            max_seconds: the longest duration of the pause: the time until a limit ends the run.

        """
        part = unavailable_part(error)
        if not self.failures:
            self._metrics.outage(part)
            self._since = self._clock.monotonic()
        longest = min(FIRST_SECONDS * 2.0 ** min(self.failures, 10), LONGEST_SECONDS)
        self.latest_seconds = self._clock.random.uniform(longest / 2, longest)
        self.failures += 1
        self._log(str(error))
        started = self._clock.monotonic()
        wait(max(0.0, min(self.latest_seconds, max_seconds)))
        self._metrics.held(part, self._clock.monotonic() - started)

    def record_success_after(self, subscribed_at: float) -> None:
        """Register a success if the subscription has lasted longer than the last pause.

        A subscription that has lasted for a shorter time may still fail because of the same outage.
        The runner calls this while nothing is to be handled.

        Args:
            subscribed_at: when the subscription began, as a time of the monotonic clock.

        """
        if self._clock.monotonic() - subscribed_at > self.latest_seconds:
            self.record_success()

    def record_success(self) -> None:
        """Register a success: log that the outage is over.

        The next outage starts with a short pause. If there was no outage, this method does nothing.

        This method is called after each handled batch, and when the consumer has read its queues
        for long enough without an error.
        """
        if not self.failures:
            return
        seconds = self._clock.monotonic() - self._since
        events.info(
            "consumer_resumed",
            f"{self._consumer} continues after {counted(self.failures, 'failed attempt')} in"
            f" {seconds:.0f} s",
            consumer=self._consumer,
        )
        self.failures, self._unlogged, self._last_line = 0, 0, ""
        self._report("")

    def _log(self, text: str) -> None:
        now = self._clock.monotonic()
        if text == self._last_line:
            self._unlogged += 1
            if now - self._logged_at < LOG_INTERVAL_SECONDS:
                return
            again = f" ({self._unlogged} failed attempts in {now - self._logged_at:.0f} s)"
        else:
            self._report(text)
            again = ""
        events.warning(
            "consumer_paused",
            f"{self._consumer} holds for {self.latest_seconds:.1f} s, then tries again:"
            f" {text}{again}",
            consumer=self._consumer,
        )
        self._last_line, self._logged_at, self._unlogged = text, now, 0
