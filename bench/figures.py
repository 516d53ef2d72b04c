"""The figures: how each is measured, its limit and its aim."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.runs import RUNS

Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table.

    Attributes:
        name: the name for the option --only.
        text: the description.
        must: the worst value that is accepted; None if every value is accepted.
        aim: the wanted value.
        unit: the format of the value.
        runs: the runs whose results are used.
        value: computes the value from the results of one round.
        lower: whether lower is better.

    """

    name: str
    text: str
    must: float | None
    aim: float | None
    unit: str
    runs: tuple[str, ...]
    value: Callable[[Results], float]
    lower: bool = False

    def met(self, value: float) -> str:
        """Return whether a value reaches a limit, such as the aim."""
        if self.must is None or self.aim is None:
            return ""
        if value <= self.aim if self.lower else value >= self.aim:
            return "aim"
        return "must" if (value <= self.must if self.lower else value >= self.must) else "no"


def _ratio(name: str, over: str) -> Callable[[Results], float]:
    return lambda results: results[name]["rate"] / results[over]["rate"]


def _of(run: str, what: str, divisor: float = 1) -> Callable[[Results], float]:
    return lambda results: results[run][what] / divisor


TIMES, SHARE, RATE = "{:,.1f} ×", "{:.2f}", "{:,.0f} updates/s"  # noqa: RUF001 -- times
MS, SECONDS, MEGABYTES = "{:,.1f} ms", "{:.2f} s", "{:,.0f} MB"

# fmt: off
FIGURES = (
    Figure("share", "10,000 followers, 30 tweets: of the database alone", 0.45, 0.6, SHARE,
           ("database", "wide"), _ratio("wide", "database")),
    Figure("multiple", "the same, of a message per follower", 90, 120, TIMES,
           ("wide", "wide-port"), _ratio("wide", "wide-port")),
    Figure("everyday", "everyday graph, 2,000 tweets: of a message per follower", 15, 40, TIMES,
           ("everyday", "everyday-port"), _ratio("everyday", "everyday-port")),
    Figure("embedded", "10,000 followers, embedded: of RabbitMQ + PostgreSQL", 0.7, 1.5, SHARE,
           ("wide", "wide-embedded"), _ratio("wide-embedded", "wide")),
    Figure("embedded", "everyday graph, embedded: of RabbitMQ + PostgreSQL", 0.7, 1.5, SHARE,
           ("everyday", "everyday-embedded"), _ratio("everyday-embedded", "everyday")),
    Figure("latency", "half of the peak load: post to last follower's feed, p99", 250, 60, MS,
           ("latency",), _of("latency", "p99_ms"), lower=True),
    Figure("million", "1,000,000 followers: of 10,000 followers", 0.9, 1.0, SHARE,
           ("wide", "million"), _ratio("million", "wide")),
    Figure("million", "the same: most memory of one process", 120, 80, MEGABYTES,
           ("million",), _of("million", "peak_bytes", 1e6), lower=True),
    Figure("reading", "20 entries of a feed of 1,000,000 of 10 million, p99", 10, 4, MS,
           ("reading",), _of("reading", "long_p99_ms"), lower=True),
    Figure("reading", "the same: of a feed of 20", 1.2, 1.05, SHARE,
           ("reading",), _of("reading", "ratio_p99"), lower=True),
    Figure("serving", "GET feed from 32 clients: of bare Bottle", 0.3, 0.5, SHARE,
           ("serving",), _of("serving", "ratio")),
    Figure("idle", "idle system: memory in all (PSS)", 750, 500, MEGABYTES,
           ("idle",), _of("idle", "pss_bytes", 1e6), lower=True),
    Figure("idle", "idle system: processor in all", 3, 1, "{:.1f} %",
           ("idle",), _of("idle", "cpu_percent"), lower=True),
    Figure("idle", "idle system, embedded: memory in all (PSS)", 750, 500, MEGABYTES,
           ("idle-embedded",), _of("idle-embedded", "pss_bytes", 1e6), lower=True),
    Figure("idle", "idle system, embedded: processor in all", 3, 1, "{:.1f} %",
           ("idle-embedded",), _of("idle-embedded", "cpu_percent"), lower=True),
    Figure("start", "feedbus check, cold", 600, 300, "{:.0f} ms",
           ("check",), _of("check", "seconds", 1e-3), lower=True),
    Figure("start", "feedbus up to all consumers ready", 5, 3, SECONDS,
           ("idle",), _of("idle", "ready_seconds"), lower=True),
    Figure("start", "the same, embedded", 5, 3, SECONDS,
           ("idle-embedded",), _of("idle-embedded", "ready_seconds"), lower=True),
    Figure("rates", "database alone, 10,000 followers", None, None, RATE,
           ("database",), _of("database", "rate")),
    Figure("rates", "feedbus, 10,000 followers", None, None, RATE, ("wide",), _of("wide", "rate")),
    Figure("rates", "feedbus, 10,000 followers, embedded", None, None, RATE,
           ("wide-embedded",), _of("wide-embedded", "rate")),
    Figure("rates", "feedbus, 1,000,000 followers", None, None, RATE,
           ("million",), _of("million", "rate")),
    Figure("rates", "feedbus, everyday graph", None, None, RATE,
           ("everyday",), _of("everyday", "rate")),
    Figure("rates", "feedbus, everyday graph, embedded", None, None, RATE,
           ("everyday-embedded",), _of("everyday-embedded", "rate")),
    Figure("rates", "message per follower on Kombu, everyday graph", None, None, RATE,
           ("everyday-port",), _of("everyday-port", "rate")),
    Figure("rates", "peak over HTTP, everyday graph", None, None, "{:,.0f} tweets/s",
           ("latency",), _of("latency", "peak_tweets_per_second")),
    Figure("rates", "GET feed from 32 clients", None, None, "{:,.0f} requests/s",
           ("serving",), _of("serving", "requests")),
    Figure("peers", "message per follower on Kombu, 10,000 followers", None, None, RATE,
           ("wide-port",), _of("wide-port", "rate")),
    Figure("peers", "Celery, 10,000 followers", None, None, RATE,
           ("wide-celery_app",), _of("wide-celery_app", "rate")),
    Figure("peers", "Dramatiq, 10,000 followers", None, None, RATE,
           ("wide-dramatiq_app",), _of("wide-dramatiq_app", "rate")),
    Figure("peers", "FastStream, 10,000 followers", None, None, RATE,
           ("wide-faststream_app",), _of("wide-faststream_app", "rate")),
)
# fmt: on


def chosen(names: tuple[str, ...]) -> list[Figure]:
    """Return the measurements with these names, or all; only measurements that can run here."""
    named = [figure for figure in FIGURES if not names or figure.name in names]
    return [figure for figure in named if set(figure.runs) <= RUNS.keys()]
