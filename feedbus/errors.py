"""Every error that feedbus raises, and the exceptions by which a handler gives a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from feedbus.printable import printable, printable_lines, shortened
from feedbus.units import counted
from feedbus.wrong_argument import refuse

OutagePart = Literal["broker", "store", "handler"]  # what can be unavailable

LONGEST_WAIT_SECONDS = 366 * 24 * 3600  # the largest after_seconds of Retry
# The limits of an error about a body, which can contain anything and be of any size: the number of
# fields, the number of texts of a field, and the number of characters of a text.
FIELDS_KEPT, TEXTS_KEPT, CHARACTERS_KEPT = 20, 5, 200


class FeedbusError(Exception):
    """The base class of feedbus's errors; the text of an error is meant for the operator."""


class UsageError(FeedbusError):
    """A command or a call cannot be carried out; the text says why and what to do.

    For example, a queue is unknown, or another process holds the topology's lock for too long.
    """


class UnexpectedResult(TypeError):  # noqa: N818 -- names what the handler did
    """A handler returned a value other than None, which has no meaning for feedbus.

    The queue's `retry` determines what happens to the record, as after any other exception.
    """


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in a topology file, and its position; TopologyError contains all of them.

    Attributes:
        file: the name of the file.
        line: the number of the line; the first line is 1.
        column: the number of the column; the first column is 1.
        table: the table with the problem, such as "queues.mail".
        key: the option in the table; "" if the problem is the table itself.
        message: the text of the problem.
        expected: the expected value, in words.
        got: the found value, as text.
        suggestion: a known name that is similar to the found name; "" if there is none.

    """

    file: str
    line: int
    column: int
    table: str
    key: str
    message: str
    expected: str = ""
    got: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        """Return the problem as one line that editors can jump to."""
        where = f"{self.file}:{self.line}:{self.column}:"
        table = f" [{self.table}]" if self.table else ""
        key = f" {self.key}:" if self.key else ""
        hint = f"; did you mean '{self.suggestion}'?" if self.suggestion else ""
        return printable(f"{where}{table}{key} {self.message}{hint}")


class TopologyError(FeedbusError):
    """A topology file cannot be read or has problems; `problems` contains all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Create the error with problems in the order of their positions in the file."""
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Outage(FeedbusError):  # noqa: N818 -- an outage is a state
    """Something that a handler needs is unavailable; the record itself is not the cause.

    A handler may raise it. Then the consumer holds: it waits, closes the resources and opens them
    again, and handles the same messages again, without counting an attempt.
    """


class BrokerOutage(Outage):
    """The broker is unavailable, refuses the connection, or lacks declared objects.

    A consumer that gets this error holds and tries again.
    """


class WrongBrokerSettings(BrokerOutage):
    """The broker refuses the user, the virtual host or a permission, or TLS cannot be used.

    Only an operator can correct the settings. So a publish fails immediately: it does not try
    again. A consumer holds and tries again, as in any outage.
    """


class StoreOutage(Outage):
    """The store is unavailable, full or not set up; a consumer holds and tries again."""


def unavailable_part(error: FeedbusError) -> OutagePart:
    """Return what an error says is unavailable, for logs and metrics.

    Args:
        error: an error that a consumer treats as an outage.

    Returns:
        "store", "broker" or "handler" (something else that a handler needs). A UsageError counts
        as "broker": a consumer gets one if, for example, another process held the topology's lock
        for too long, and this lock is on the broker.

    """
    if isinstance(error, StoreOutage):
        return "store"
    if isinstance(error, BrokerOutage) or not isinstance(error, Outage):
        return "broker"
    return "handler"


class InvalidBody(FeedbusError):  # noqa: N818 -- a state of the delivery
    """A body cannot be decoded or validated, so its message becomes a dead letter.

    Its attribute `errors` maps each field to the texts of its errors; "" stands for the whole body.
    """

    def __init__(self, errors: Mapping[str, Sequence[str]]) -> None:
        """Create the error; the key "" stands for the whole body. Long lists are shortened."""
        self.errors = {
            shortened(field, CHARACTERS_KEPT): [
                shortened(text, CHARACTERS_KEPT) for text in texts[:TEXTS_KEPT]
            ]
            for field, texts in islice(errors.items(), FIELDS_KEPT)
        }
        if len(errors) > FIELDS_KEPT:
            self.errors.setdefault("", []).append(
                f"and {counted(len(errors) - FIELDS_KEPT, 'more field')}"
            )
        listed = "; ".join(
            f"{field or 'body'}: {' '.join(texts)}" for field, texts in self.errors.items()
        )
        super().__init__(listed)


class PublishError(FeedbusError):
    """The broker did not accept messages that a bus published.

    Its attribute `failures` has a pair (message id, reason) for each message.
    """

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        """Create the error; its text has the number of messages and the first reasons."""
        self.failures = tuple(failures)
        reasons = sorted({reason for _, reason in self.failures})
        more = f"; and {counted(len(reasons) - 5, 'more reason')}" if len(reasons) > 5 else ""  # noqa: PLR2004
        messages = f"{counted(len(self.failures), 'message was', 'messages were')} not published"
        super().__init__(f"{messages}: {'; '.join(reasons[:5])}{more}")


class Unroutable(PublishError):  # noqa: N818 -- the broker's own word
    """The broker returned messages that a bus published, because no queue matches them.

    Its attribute `failures` has a pair (message id, reason) for each message.
    """


class Reject(Exception):  # noqa: N818 -- a verdict, not an error
    """Raised by a handler so that the record becomes a dead letter immediately, without a retry."""

    def __init__(self, reason: str) -> None:
        """Create the verdict with the reason, which the dead letter contains."""
        self.reason = reason
        super().__init__(reason)


class Drop(Exception):  # noqa: N818 -- a verdict, not an error
    """Raised by a handler to acknowledge a record that is no longer needed.

    The record is acknowledged, counted as "drop" and logged; it does not become a dead letter.
    """

    def __init__(self, reason: str) -> None:
        """Create the verdict with the reason, which is logged."""
        self.reason = reason
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 -- a verdict, not an error
    """Raised by a handler to have the record handled again later, as another attempt."""

    def __init__(self, reason: str = "", *, after_seconds: float | None = None) -> None:
        """Create the verdict.

        Args:
            reason: the reason, for the log and for the dead letter.
            after_seconds: the delay before the next attempt; None for the delay of the queue's
                retry policy.

        Raises:
            TypeError: after_seconds is not a number.
            ValueError: after_seconds is negative or too large.

        """
        if after_seconds is not None:
            if not isinstance(after_seconds, int | float) or isinstance(after_seconds, bool):
                refuse("after_seconds", "a number of seconds", after_seconds)
            if not 0 <= after_seconds <= LONGEST_WAIT_SECONDS:
                msg = f"after_seconds: expected 0 to {LONGEST_WAIT_SECONDS}, got {after_seconds}"
                raise ValueError(msg)
        self.reason = reason
        self.after_seconds = after_seconds
        super().__init__(reason or "retry")


def text_of(error: BaseException) -> str:
    """Return str() of an error; if str() raises an exception, return a text that reports it."""
    try:
        return str(error)
    except Exception as second:  # noqa: BLE001 -- a handler's own class may raise anything here
        return f"{type(error).__name__}, whose text raised {type(second).__name__}"


def described(error: BaseException) -> str:
    """Return the type and the text of an error, such as "ValueError: no such key".

    If str() of the error raises an exception, the text reports it.
    """
    name, text = type(error).__name__, text_of(error)
    if text.startswith(f"{name}, whose text raised "):
        return text
    return f"{name}: {text}" if text else name


def error_text(error: Exception) -> str:
    """Return the text that a command prints for an error, with one line for each problem.

    Args:
        error: the error that ends the command.

    """
    problems = error.problems if isinstance(error, TopologyError) else ()
    if not problems:
        return f"error: {printable_lines(str(error))}"
    return (
        f"error: {counted(len(problems), 'problem')} in the topology\n{printable_lines(str(error))}"
    )
