"""Every metric of feedbus: its name, meaning, labels and buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feedbus.errors import OutagePart

Verdict = Literal["ack", "reject", "retry", "dead_letter", "invalid", "drop"]
Outcome = Literal["confirmed", "returned", "nacked", "unconfirmed"]
Limit = Literal["max_age", "max_length"]

VERDICTS: tuple[Verdict, ...] = ("ack", "reject", "retry", "dead_letter", "invalid", "drop")
OUTCOMES: tuple[Outcome, ...] = ("confirmed", "returned", "nacked", "unconfirmed")
LIMITS: tuple[Limit, ...] = ("max_age", "max_length")
OUTAGE_PARTS: tuple[OutagePart, ...] = ("broker", "store", "handler")


@dataclass(frozen=True, slots=True)
class Family:
    """The declaration of one metric, which has one series of numbers for each set of label values.

    Attributes:
        name: the name in Prometheus.
        kind: the kind in Prometheus.
        meaning: the help text.
        labels: the names of the labels.
        bounds: the upper ends of a histogram's buckets, without +Inf; empty for other kinds.

    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    meaning: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()

    @property
    def length(self) -> int:
        """How many numbers a series has.

        A histogram has one for each bucket, one for +Inf and one for the sum. Other kinds have one.
        """
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
    "feedbus_deliveries_total",
    "counter",
    "Deliveries settled, by verdict; a pack is one delivery.",
    ("consumer", "verdict"),
)
RECORDS = Family(
    "feedbus_records_total",
    "counter",
    "Records settled, by verdict. ack: handled, or skipped by once = true. reject, invalid and "
    "dead_letter: dead letters now. retry: tried again later. drop: dropped by the handler or "
    "after the last attempt.",
    ("consumer", "verdict"),
)
REDELIVERIES = Family(
    "feedbus_redeliveries_total",
    "counter",
    "Deliveries that the broker had delivered before, for example to a process that died.",
    ("consumer",),
)
MISPLACED = Family(
    "feedbus_misplaced_deliveries_total",
    "counter",
    "Deliveries with records that another shard owns; 0, unless the broker has rebuilt a ring.",
    ("consumer",),
)
OUTAGES = Family(
    "feedbus_outages_total",
    "counter",
    "Times that the consumer began to hold, because the broker, the store, or something that a "
    "handler needs was unavailable.",
    ("consumer", "part"),
)
HELD = Family(
    "feedbus_held_seconds_total",
    "counter",
    "Time for which the consumer has waited because of outages; it grows during an outage.",
    ("consumer", "part"),
)
LOOP_BLOCKED = Family(
    "feedbus_loop_blocked_seconds_total",
    "counter",
    "Time for which async handlers blocked the event loop; blocks shorter than 1 s do not count.",
    ("consumer",),
)
HANDLING = Family(
    "feedbus_handling_seconds",
    "histogram",
    "Time of one batch, from reading its bodies to the confirms of the messages that its handler "
    "published. With concurrency above 1: time of one call of the handler.",
    ("consumer",),
    HANDLING_BOUNDS,
)
LAG = Family(
    "feedbus_lag_seconds",
    "histogram",
    "Time of each delivery from the sending of the message to its settlement. For a retry, and"
    " for a dead letter that was requeued, the time begins when it was sent again.",
    ("consumer",),
    LAG_BOUNDS,
)
AGE = Family(
    "feedbus_age_seconds",
    "histogram",
    "Time of each retry and each requeued dead letter from the first publish of its message to its"
    " settlement.",
    ("consumer",),
    LAG_BOUNDS,
)
BATCH = Family(
    "feedbus_batch_records",
    "histogram",
    "Number of records in one batch.",
    ("consumer",),
    BATCH_BOUNDS,
)
TAKEN_FOR_REPEATS = Family(
    "feedbus_taken_for_repeats_total",
    "counter",
    "Redelivered messages without ids that a queue with once = true skipped, because it had "
    "handled an equal one.",
    ("consumer",),
)
SKIPPED = Family(
    "feedbus_skipped_records_total",
    "counter",
    "Records that a queue with once = true skipped, because a record with the same message id was "
    "handled before. They are also counted as ack.",
    ("consumer",),
)
DROPPED = Family(
    "feedbus_dead_letters_dropped_total",
    "counter",
    "Dead letters dropped because they exceeded a limit of dead_letters, by that limit.",
    ("consumer", "limit"),
)
UNIDENTIFIED = Family(
    "feedbus_unidentified_deliveries_total",
    "counter",
    "Deliveries whose publisher gave no message id, so equal messages cannot be distinguished.",
    ("consumer",),
)
PUBLISHED = Family(
    "feedbus_published_total",
    "counter",
    "Records published, by outcome: confirmed; returned, because no queue takes them; nacked, "
    "because the broker refused them; unconfirmed, because the connection was lost: these are "
    "sent again. Two values of the label exchange are not names of exchanges: dead-letter counts "
    "dead letters; retry counts retries, and on a queue with order_by also records that were moved "
    "to the waiting queue because they wait for an earlier record.",
    ("exchange", "outcome"),
)
BLOCKED = Family(
    "feedbus_publisher_blocked_seconds_total",
    "counter",
    "Time for which the broker blocked publishers because it is short of memory or disk.",
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
    "feedbus_schedule_fired_total",
    "counter",
    "Moments of a schedule that this host fired.",
    ("schedule",),
)

# Gauges are never written to metric files: after a kill, the last value of the process would stay
# there and be shown.
QUEUE_MESSAGES = Family(
    "feedbus_queue_messages",
    "gauge",
    "Messages ready in the queue; each host reports the same number.",
    ("queue",),
)
RETRYING = Family(
    "feedbus_retrying_messages",
    "gauge",
    "Messages of the queue that wait for their next attempt in its retry queues; all shards of a "
    "queue have the same retry queues. Each host reports the same number. For a queue with "
    "order_by, see feedbus_retrying_records.",
    ("queue",),
)
RETRYING_IN_ORDER = Family(
    "feedbus_retrying_records",
    "gauge",
    "Records of a queue with order_by that have failed and wait for their next attempt. Only "
    "records that processes of this host have received are counted.",
    ("consumer",),
)
WAITING = Family(
    "feedbus_waiting_records",
    "gauge",
    "Records that wait for an earlier record of their key, in the processes of this host; and all "
    "records in the waiting queue that no process has received, including failed ones.",
    ("consumer",),
)
DELAYED = Family(
    "feedbus_delayed_messages",
    "gauge",
    "Messages in the timer, by state: waiting until they are due; undelivered, because no queue of "
    "the topology took them when they were due.",
    ("state",),
)
HOLDING = Family(
    "feedbus_holding_processes",
    "gauge",
    "Processes of the consumer on this host that hold because of an outage.",
    ("consumer",),
)
HOST_CONSUMERS = Family(
    "feedbus_host_consumers",
    "gauge",
    "Consumers assigned to the host: of shards, and of queues with one active consumer. Each host "
    "reports the same number.",
    ("host",),
)
DEAD_LETTERS = Family(
    "feedbus_dead_letters",
    "gauge",
    "Dead letters kept for the queue; each host reports the same number.",
    ("queue",),
)
UNREADABLE = Family(
    "feedbus_metric_files_unreadable",
    "gauge",
    "Metric files that cannot be read, including those that were renamed to *.unreadable.",
    (),
)

# The metrics that processes write to their metric files, by name.
RECORDED = {
    family.name: family
    for family in (
        DELIVERIES,
        RECORDS,
        REDELIVERIES,
        MISPLACED,
        UNIDENTIFIED,
        TAKEN_FOR_REPEATS,
        SKIPPED,
        DROPPED,
        OUTAGES,
        HELD,
        LOOP_BLOCKED,
        HANDLING,
        LAG,
        AGE,
        BATCH,
        PUBLISHED,
        BLOCKED,
        SCHEDULE_FIRED,
        SCHEDULE_LATENESS,
    )
}
# The metrics whose values the operations process reads when it answers /metrics, by name.
GAUGES = {
    family.name: family
    for family in (
        QUEUE_MESSAGES,
        RETRYING,
        RETRYING_IN_ORDER,
        WAITING,
        DELAYED,
        DEAD_LETTERS,
        HOLDING,
        HOST_CONSUMERS,
    )
}
