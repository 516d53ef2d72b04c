"""The options of a queue in topology.toml for failures: its retries and its dead letters."""

from __future__ import annotations

from feedbus import topology
from feedbus.config.option_types import Choice, Duration, Flag, Whole
from feedbus.config.table_types import Array, TableSchema
from feedbus.config.value_types import ExceptionName


class RetryTable(TableSchema):
    """The schema of a queue's table `retry` in topology.toml: each attribute is an option."""

    builds = topology.RetryPolicy

    delays = Array(
        Duration("How long the message waits before the next attempt."),
        "The waits between attempts.",
        example=["1s", "10s", "1m"],
        of="durations",
        empty=False,
        required=True,
        attribute="delays_seconds",
    )
    then = Choice(
        "What happens to a message after the last attempt.",
        *("dead-letter", "drop"),
        default="needed, unless `repeat` is true",
    )
    repeat = Flag("Whether the last delay repeats without end.", default="false")
    retry_on = Array(
        ExceptionName("The dotted name of an exception class."),
        "The message is tried again only after these exceptions of the handler and their "
        "subclasses. After any other exception, it becomes a dead letter immediately.",
        of="exceptions",
        empty=False,
        default="every exception",
        example=["httpx.TransportError"],
    )
    reject_on = Array(
        ExceptionName("The dotted name of an exception class."),
        "After these exceptions, the message becomes a dead letter immediately. If `retry_on` "
        "and `reject_on` both match an exception, the class that is nearest to the exception's own "
        "class decides.",
        of="exceptions",
        empty=False,
        default="none",
        example=["ValueError"],
    )


class DeadLettersTable(TableSchema):
    """The schema of a queue's table `dead_letters` in topology.toml: one attribute per option."""

    builds = topology.DeadLetters

    max_age = Duration(
        "Dead letters older than this are dropped.", never=True, attribute="max_age_seconds"
    )
    max_length = Whole(
        "The largest number of dead letters; older ones are dropped.", unlimited=True
    )
