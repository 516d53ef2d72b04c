"""Tweets through feedbus, from the publish until the last notification is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from bench import checking, graphs
from bench.stage import SERVERS, Stage
from bench.system import System, running
from feedbus import connect


def deliver(
    stage: Stage,
    kind: str,
    graph: str,
    count: int,
    watch: Callable[[System], AbstractContextManager[object]] = nullcontext,
) -> dict[str, float]:
    """Publish a graph's tweets and wait for the last row; watch measures meanwhile."""
    with running(stage, kind, graph) as system:
        tweets = graphs.tweets(graph, count)
        wanted, before = checking.expect(tweets), checking.notifications()
        pairs = [(tweet.payload(), "publish_tweet") for tweet in tweets]
        with connect(system.place.topology) as bus, watch(system):
            started = time.monotonic()
            bus.publish_many("publish_tweet", pairs)
            seconds = checking.await_rows(
                lambda: checking.notifications() - before, wanted, started
            )
        stored = checking.check()
        assert stored == wanted
        peaks = system.peak_bytes()
    return {
        "updates": wanted,
        "seconds": seconds,
        "rate": wanted / seconds,
        "peak_bytes": max(peaks.values()),
        **{f"peak {name}": peak for name, peak in peaks.items()},
    }


def wide(stage: Stage, kind: str) -> dict[str, float]:
    """Deliver the tweets of an author whom 10,000 follow."""
    return deliver(stage, kind, "wide", stage.scale.wide_tweets)


def everyday(stage: Stage, kind: str) -> dict[str, float]:
    """Deliver tweets of many authors, most of them of few followers."""
    return deliver(stage, kind, "everyday", stage.scale.everyday_tweets)


def million(stage: Stage) -> dict[str, float]:
    """Deliver one tweet of an author whom 1,000,000 follow."""
    return deliver(stage, SERVERS, "million", 1)
