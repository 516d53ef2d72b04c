"""Find out whether a handler call was the cause of a lost connection or channel.

If it was, this is logged. The messages of the call are passed to the crash guard, which counts how
often a message has ended its process or its connection (feedbus.runner.crash_guard).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feedbus.logs import EventLog
from feedbus.runner.consumer_timeout import ConsumerTimeout
from feedbus.runner.crash_guard import CrashGuard
from feedbus.units import counted

events = EventLog(__name__)


@dataclass(frozen=True, slots=True)
class ReturnedCall:
    """A handler call that has returned, and how long no heartbeat was sent during the call.

    If the broker closes the channel or the connection after the call, the runner logs whether the
    call was the cause.

    Attributes:
        seconds: the duration of the call.
        missed_seconds: the longest time without a heartbeat; 0 if it was shorter than the interval
            of the heartbeats.
        message_ids: the ids of the messages that the handler got.

    """

    seconds: float
    missed_seconds: float
    message_ids: Sequence[str]

    def cause(self, timeout: ConsumerTimeout) -> str:
        """Return a text: why the broker has probably closed the channel or the connection.

        The result is "" if this call was probably not the cause.

        Args:
            timeout: the broker's consumer timeout.

        """
        if timeout.may_have_expired(self.seconds):
            return timeout.cause_of_close(self.seconds)
        if self.missed_seconds:
            return (
                f"no heartbeat was sent for {self.missed_seconds:.0f} s, because the handler"
                " blocked all other threads of the process"
            )
        return ""


def blame(crash_guard: CrashGuard, consumer: str, message_ids: Sequence[str], cause: str) -> None:
    """Log that the broker delivers messages again, and pass the messages to the crash guard.

    Each mode of the runner calls the function when the handling of messages was the probable cause
    of a closed channel or connection, or of a cancelled subscription.

    Args:
        crash_guard: the crash guard of the process.
        consumer: the name of the consumer.
        message_ids: the ids of the messages that were in the handler, at least one.
        cause: why the broker has closed the channel or cancelled the subscription. ReturnedCall and
            ConsumerTimeout return such texts.

    """
    first, others = message_ids[0], len(message_ids) - 1
    also = f" and {counted(others, 'other message')}" if others else ""
    events.warning(
        "channel_lost",
        f"the broker delivers message {first}{also} of {consumer} again: {cause}",
        consumer=consumer,
        message_id=first,
    )
    crash_guard.blame(message_ids, cause)


# Used in place of a call if no call has returned yet, or if the latest call has raised an outage.
NO_CALL = ReturnedCall(0.0, 0.0, ())
