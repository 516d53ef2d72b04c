"""The panels of a topology's dashboard, with their queries to Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from feedbus.topology import Consumer, Queue, Topology

RATE = "$__rate_interval"  # Grafana's variable for the time over which a rate is computed
RANGE = "$__range"  # Grafana's variable for the time that is shown
JOB = 'job=~"$job"'  # the jobs that the user of the dashboard has selected
QUANTILES = (0.5, 0.95, 0.99)
FULL, HALF, THIRD = 24, 12, 8  # widths of panels in Grafana's units


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel to Prometheus.

    Attributes:
        expr: the query in PromQL.
        legend: the legend of its results, in Grafana's notation, such as "{{consumer}}".

    """

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of a dashboard.

    Attributes:
        title: the title.
        description: the description of the panel.
        queries: the queries whose results the panel shows.
        unit: Grafana's name of the unit of the values.
        kind: Grafana's name of the kind of panel.
        width: the width in units of Grafana's grid; 24 fills a row.
        height: the height in units of Grafana's grid.

    """

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Literal["timeseries", "bargauge", "stat"] = "timeseries"
    width: int = HALF
    height: int = 8


def rows(topology: Topology) -> Iterator[tuple[str, list[Panel]]]:
    """Yield the title and the panels of each row of a dashboard, the most important row first.

    Args:
        topology: the topology that the dashboard shows.

    """
    yield "Consumers, side by side", _consumers(topology)
    for queue in topology.queues.values():
        if queue.shards is not None:
            yield f"Shards of {queue.name}", _shards(topology, queue)
    yield "Queues", _queues(topology)
    yield "Handling", _handling(topology)
    yield "Publishing and outages", _publishing_and_outages()
    if topology.schedules:
        yield "Schedules", _schedules()


def _consumers(topology: Topology) -> list[Panel]:
    names = _names(topology.consumers.values())
    rate = _rate("feedbus_records_total", "consumer", f"consumer=~{names}")
    query = (Query(rate, "{{consumer}}"),)
    description = "Records settled per second, with any verdict."
    return [
        Panel("Records/s now", description, query, "cps", "bargauge", THIRD, 14),
        Panel("Records/s", description, query, "cps", width=FULL - THIRD, height=14),
    ]


def _shards(topology: Topology, queue: Queue) -> list[Panel]:
    shards = _consumers_of(topology, queue)
    names = _names(shards)
    settled = _settled(names)
    by_weight = _by_weight(shards)
    ready = f"max by (queue) (feedbus_queue_messages{{queue=~{names},{JOB}}})"
    rate = _rate("feedbus_records_total", "consumer", f"consumer=~{names}")
    return [
        Panel(
            f"{queue.name}: records by shard",
            "Records settled by each shard in the time that is shown.",
            (Query(settled, "{{consumer}}"),),
            kind="bargauge",
            width=THIRD,
            height=10,
        ),
        Panel(
            f"{queue.name}: busiest shard / mean",
            "Records of the busiest shard, relative to the mean and the weights; 1 is even.",
            (Query(f"max({by_weight}) / avg({by_weight})", "max/mean"),),
            kind="stat",
            width=4,
            height=10,
        ),
        Panel(
            f"{queue.name}: records/s by shard",
            "Records settled per second by each shard.",
            (Query(rate, "{{consumer}}"),),
            "cps",
            width=6,
            height=10,
        ),
        Panel(
            f"{queue.name}: ready by shard",
            "Messages ready in each shard's queue; a pack of records is one message.",
            (Query(ready, "{{queue}}"),),
            width=6,
            height=10,
        ),
    ]


def _queues(topology: Topology) -> list[Panel]:
    queues = topology.queues.values()
    backlog = tuple(
        Query(
            f"sum(max by (queue) (feedbus_queue_messages"
            f"{{queue=~{_names(_consumers_of(topology, queue))},{JOB}}}))",
            queue.name,
        )
        for queue in queues
    )
    lag = tuple(
        Panel(
            f"Lag, {_percent(quantile)}",
            f"{_percent(quantile)} of the deliveries were settled at most this long after"
            " they were published.",
            tuple(
                Query(_quantile("feedbus_lag_seconds", topology, queue, quantile), queue.name)
                for queue in queues
            ),
            "s",
            width=THIRD,
        )
        for quantile in QUANTILES
    )
    age = tuple(
        Query(_quantile("feedbus_age_seconds", topology, queue, QUANTILES[-1]), queue.name)
        for queue in queues
    )
    dropped = (
        f"sum by (consumer, limit) (increase(feedbus_dead_letters_dropped_total{{{JOB}}}[{RATE}]))"
    )
    dead = Query(f"max by (queue) (feedbus_dead_letters{{{JOB}}})", "{{queue}}")
    retrying = Query(f"max by (queue) (feedbus_retrying_messages{{{JOB}}})", "{{queue}}")
    in_order = Query(f"sum by (consumer) (feedbus_retrying_records{{{JOB}}})", "{{consumer}}")
    waiting = Query(f"sum by (consumer) (feedbus_waiting_records{{{JOB}}})", "{{consumer}}")
    delayed = Query(f"max by (state) (feedbus_delayed_messages{{{JOB}}})", "timer: {{state}}")
    return [
        Panel(
            "Backlog", "Messages ready in each queue, all shards together.", backlog, width=THIRD
        ),
        Panel(
            "Retrying",
            "Messages that wait for their next attempt, and delayed messages.",
            (retrying, in_order, delayed),
            width=THIRD,
        ),
        Panel("Dead letters", "What `feedbus dead list` shows.", (dead,), width=THIRD),
        *lag,
        Panel(
            f"Age of retries, {_percent(QUANTILES[-1])}",
            f"{_percent(QUANTILES[-1])} of the retries and requeued dead letters were settled at"
            " most this long after their message was first published.",
            age,
            "s",
            width=THIRD,
        ),
        Panel(
            "Dead letters dropped",
            "Dropped by a limit on the age or the number of dead letters.",
            (Query(dropped, "{{consumer}} {{limit}}"),),
        ),
        Panel("Waiting", "Records that wait for an earlier record of their key.", (waiting,)),
    ]


def _handling(topology: Topology) -> list[Panel]:
    queues = topology.queues.values()
    batches = tuple(
        Query(_mean("feedbus_batch_records", topology, queue), queue.name) for queue in queues
    )
    times = tuple(
        Query(_quantile("feedbus_handling_seconds", topology, queue, 0.99), queue.name)
        for queue in queues
    )
    verdicts = Query(_rate("feedbus_records_total", "verdict"), "{{verdict}}")
    again = Query(_rate("feedbus_redeliveries_total", "consumer"), "{{consumer}}")
    unidentified = Query(_rate("feedbus_unidentified_deliveries_total", "consumer"), "{{consumer}}")
    misplaced = Query(_rate("feedbus_misplaced_deliveries_total", "consumer"), "{{consumer}}")
    repeats = Query(_rate("feedbus_taken_for_repeats_total", "consumer"), "{{consumer}}: skipped")
    skipped = Query(_rate("feedbus_skipped_records_total", "consumer"), "{{consumer}}: skipped")
    return [
        Panel("Verdicts", "Records settled per second, by verdict.", (verdicts,), "cps"),
        Panel(
            "Handling time, 99 %",
            "99 % of the calls of a handler took at most this long.",
            times,
            "s",
        ),
        Panel(
            "Records per call", "How many records a handler gets in one call.", batches, width=THIRD
        ),
        Panel(
            "Redelivered/s",
            "Delivered again after a crash; skipped, because their ids were handled before.",
            (again, skipped),
            "cps",
            width=THIRD,
        ),
        Panel(
            "Misplaced/s",
            "Records that belong to another shard; should be 0.",
            (misplaced,),
            "cps",
            width=THIRD,
        ),
        Panel(
            "Unidentified/s",
            "Published without a message id: equal messages cannot be distinguished.",
            (unidentified, repeats),
            "cps",
            width=THIRD,
        ),
    ]


def _publishing_and_outages() -> list[Panel]:
    published = Query(
        _rate("feedbus_published_total", "exchange, outcome"), "{{exchange}} {{outcome}}"
    )
    outages = Query(f"sum by (part) (increase(feedbus_outages_total{{{JOB}}}[{RATE}]))", "{{part}}")
    held = Query(_rate("feedbus_held_seconds_total", "part"), "{{part}}")
    holding = Query(f"sum by (consumer) (feedbus_holding_processes{{{JOB}}})", "{{consumer}}")
    shared = Query(f"max by (host) (feedbus_host_consumers{{{JOB}}})", "{{host}}")
    # This series exists only after a broker has blocked a publisher.
    blocked = f"sum(rate(feedbus_publisher_blocked_seconds_total{{{JOB}}}[{RATE}])) or vector(0)"
    loops = _rate("feedbus_loop_blocked_seconds_total", "consumer")
    return [
        Panel(
            "Published/s",
            "Published records, by the answer of the broker.",
            (published,),
            "cps",
            width=THIRD,
        ),
        Panel("Consumers that hold", "Processes, by consumer.", (holding,), width=THIRD),
        Panel("Shards by host", "Consumers assigned to each host.", (shared,), width=THIRD),
        Panel("Outages", "Consumers that began to hold.", (outages,), width=THIRD),
        Panel("Holding", "Seconds per second for which consumers hold.", (held,), width=THIRD),
        Panel(
            "Blocked",
            "Time for which publishers wait because the broker is short of memory or disk, and for"
            " which async handlers block the event loop.",
            (Query(blocked, "publishers"), Query(loops, "event loop of {{consumer}}")),
            width=THIRD,
        ),
    ]


def _schedules() -> list[Panel]:
    fired = f"sum by (schedule) (increase(feedbus_schedule_fired_total{{{JOB}}}[{RANGE}]))"
    late = _rate("feedbus_schedule_lateness_seconds_bucket", "le, schedule")
    return [
        Panel("Fired", "Moments fired in the time that is shown.", (Query(fired, "{{schedule}}"),)),
        Panel(
            "Lateness, 99 %",
            "99 % of the moments were fired at most this late.",
            (Query(f"histogram_quantile(0.99, {late})", "{{schedule}}"),),
            "s",
        ),
    ]


def _rate(metric: str, by: str, *matchers: str) -> str:
    """Return the query for the rate of a metric per second.

    Args:
        metric: the name of the metric.
        by: the labels by which the series are summed, separated by commas.
        matchers: conditions on labels in PromQL, in addition to the job.

    """
    chosen = ",".join([*matchers, JOB])
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[{RATE}]))"


def _settled(names: str) -> str:
    """Return the query for the records that each consumer has settled in the time that is shown.

    Args:
        names: the matcher of the consumers, as _names() returns it.

    """
    return (
        f"sum by (consumer) (increase(feedbus_records_total{{consumer=~{names},{JOB}}}[{RANGE}]))"
    )


def _quantile(metric: str, topology: Topology, queue: Queue, quantile: float) -> str:
    """Return the query for a quantile of a histogram, over all consumers of a queue."""
    names = _names(_consumers_of(topology, queue))
    return (
        f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', 'le', f'consumer=~{names}')})"
    )


def _mean(metric: str, topology: Topology, queue: Queue) -> str:
    """Return the query for the mean of a histogram, over all consumers of a queue."""
    chosen = f"{{consumer=~{_names(_consumers_of(topology, queue))},{JOB}}}[{RATE}]"
    return f"sum(rate({metric}_sum{chosen})) / sum(rate({metric}_count{chosen}))"


def _by_weight(shards: list[Consumer]) -> str:
    """Return the query for the settled records of each shard, divided by the shard's weight.

    The panel shows the largest result divided by the mean of the results. If all weights are equal,
    this quotient is the same without the weights, so the query does not contain them.
    """
    weights = sorted({shard.weight for shard in shards})
    parts = []
    for weight in weights:
        names = _names(shard for shard in shards if shard.weight == weight)
        part = _settled(names)
        parts.append(part if len(weights) == 1 else f"{part} / {weight}")
    return " or ".join(parts)


def _consumers_of(topology: Topology, queue: Queue) -> list[Consumer]:
    return [one for one in topology.consumers.values() if one.queue.name == queue.name]


def _names(consumers: Iterable[Consumer]) -> str:
    """Return the value of a PromQL matcher for exactly these consumers, in quotes.

    The value is a regular expression. The names of shards are shortened: update_feed_(0|1|2).
    """
    found: dict[str, list[str]] = {}
    for consumer in consumers:
        found.setdefault(consumer.queue.name, [])
        if consumer.shard is not None:
            found[consumer.queue.name].append(str(consumer.shard))
    patterns = [
        f"{re.escape(name)}_({'|'.join(shards)})" if shards else re.escape(name)
        for name, shards in found.items()
    ]
    return json.dumps("|".join(patterns), ensure_ascii=False)


def _percent(quantile: float) -> str:
    return f"{quantile * 100:g} %"
