"""Every metric that feedbus has: its name, what it says, its labels and its buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ack", "reject", "retry", "dead_letter", "invalid", "drop"]
Outcome = Literal["confirmed", "returned", "nacked", "unconfirmed"]
Part = Literal["broker", "store", "handler"]
Limit = Literal["max_age", "max_length"]

VERDICTS: tuple[Verdict, ...] = ("ack", "reject", "retry", "dead_letter", "invalid", "drop")
OUTCOMES: tuple[Outcome, ...] = ("confirmed", "returned", "nacked", "unconfirmed")
LIMITS: tuple[Limit, ...] = ("max_age", "max_length")
PARTS: tuple[Part, ...] = ("broker", "store", "handler")


@dataclass(frozen=True, slots=True)
class Family:
    """One metric; a histogram's bounds are the upper ends of its buckets, without +Inf."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    says: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        """How many numbers a series keeps: one, or each bucket, +Inf and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


HANDLING_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
LAG_BOUNDS = (
    *(0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0),
)
BATCH_BOUNDS = (
    *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0),
    *(1000.0, 2000.0, 5000.0, 10000.0),
)

DELIVERIES = Family(
    "feedbus_deliveries_total", "counter", "Deliveries settled.", ("consumer", "verdict")
)
RECORDS = Family("feedbus_records_total", "counter", "Records settled.", ("consumer", "verdict"))
REDELIVERIES = Family(
    "feedbus_redeliveries_total",
    "counter",
    "Deliveries that had been delivered before.",
    ("consumer",),
)
MISPLACED = Family(
    "feedbus_misplaced_deliveries_total",
    "counter",
    "Deliveries with records that another shard owns.",
    ("consumer",),
)
OUTAGES = Family(
    "feedbus_outages_total",
    "counter",
    "Times that the consumer began to hold: broker, store, or what a handler needs was away.",
    ("consumer", "part"),
)
HELD = Family(
    "feedbus_held_seconds_total",
    "counter",
    "Time spent holding; it grows while an outage lasts.",
    ("consumer", "part"),
)
HANDLING = Family(
    "feedbus_handling_seconds",
    "histogram",
    "Time to handle what was taken at once.",
    ("consumer",),
    HANDLING_BOUNDS,
)
LAG = Family(
    "feedbus_lag_seconds",
    "histogram",
    "Time from publish to settle, a delivery at a time.",
    ("consumer",),
    LAG_BOUNDS,
)
BATCH = Family(
    "feedbus_batch_records",
    "histogram",
    "Records that the handler took at once.",
    ("consumer",),
    BATCH_BOUNDS,
)
TAKEN_FOR_REPEATS = Family(
    "feedbus_taken_for_repeats_total",
    "counter",
    "Redelivered messages without ids, skipped since a queue with once had handled an equal one.",
    ("consumer",),
)
DROPPED = Family(
    "feedbus_dead_letters_dropped_total",
    "counter",
    "Dead letters that the consumer dropped, by the limit of its queue that they were beyond.",
    ("consumer", "limit"),
)
UNIDENTIFIED = Family(
    "feedbus_unidentified_deliveries_total",
    "counter",
    "Deliveries whose publisher gave no message id, so that equal ones cannot be told apart.",
    ("consumer",),
)
PUBLISHED = Family(
    "feedbus_published_total",
    "counter",
    "Records published, by what the broker answered.",
    ("exchange", "outcome"),
)
BLOCKED = Family(
    "feedbus_publisher_blocked_seconds_total",
    "counter",
    "Time that publishers waited because the broker, short of memory or disk, blocked them.",
    (),
)
SCHEDULE_LATENESS = Family(
    "feedbus_schedule_lateness_seconds",
    "histogram",
    "Time from the moment of a schedule until its message was published.",
    ("schedule",),
    LAG_BOUNDS,
)
SCHEDULE_FIRED = Family(
    "feedbus_schedule_fired_total", "counter", "Moments that were fired.", ("schedule",)
)

# Gauges are never kept in files: a process that was killed would leave its last word behind.
QUEUE_MESSAGES = Family(
    "feedbus_queue_messages", "gauge", "Messages ready in the queue.", ("queue",)
)
RETRYING = Family(
    "feedbus_retrying_messages",
    "gauge",
    "Messages of the queue that wait for their next attempt.",
    ("queue",),
)
DELAYED = Family(
    "feedbus_delayed_messages",
    "gauge",
    "Messages that wait until they are due, and those that came due without their target.",
    ("state",),
)
HOLDING = Family(
    "feedbus_holding_processes",
    "gauge",
    "Processes of the consumer that hold, as something that they need is away.",
    ("consumer",),
)
DEAD_LETTERS = Family(
    "feedbus_dead_letters", "gauge", "Dead letters kept for the queue.", ("queue",)
)
UNREADABLE = Family(
    "feedbus_metric_files_unreadable", "gauge", "Metric files that could not be read.", ()
)

RECORDED = {
    family.name: family
    for family in (
        DELIVERIES,
        RECORDS,
        REDELIVERIES,
        MISPLACED,
        UNIDENTIFIED,
        TAKEN_FOR_REPEATS,
        DROPPED,
        OUTAGES,
        HELD,
        HANDLING,
        LAG,
        BATCH,
        PUBLISHED,
        BLOCKED,
        SCHEDULE_FIRED,
        SCHEDULE_LATENESS,
    )
}
GAUGES = {
    family.name: family for family in (QUEUE_MESSAGES, RETRYING, DELAYED, DEAD_LETTERS, HOLDING)
}
