"""The time from an HTTP post to the last follower's feed, at half of the highest rate."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence

from bench import checking, graphs
from bench.clients import post_tweets
from bench.stage import SERVERS, Stage
from bench.system import System, running
from store.queries.sql import rows

# A row is visible from the commit of the transaction that wrote it (xmin) on.
VISIBLE = """
    SELECT tweet_id, max(extract(epoch FROM pg_xact_commit_timestamp(feed.xmin)))
    FROM feed JOIN expected ON expected.id = tweet_id GROUP BY tweet_id
"""


def latency(stage: Stage) -> dict[str, float]:
    """Find the peak by posting as fast as tweets are taken, then post half as many a second."""
    with running(stage, SERVERS, "everyday") as system:
        dice = random.Random(graphs.SEED)  # noqa: S311 -- a load, the same each time
        authors = graphs.authors("everyday")
        started = time.time()
        _post(system, dice, authors, stage.scale.peak_tweets, None)
        peak = stage.scale.peak_tweets / (time.time() - started)
        rate = peak / 2
        count = max(10, round(rate * stage.scale.latency_seconds))
        posted = _post(system, dice, authors, count, rate)
        visible = {int(number): float(moment) for number, moment in rows(VISIBLE)}
        waited = [(visible[number] - due) * 1000 for number, due in posted.items()]
    return {
        "peak_tweets_per_second": peak,
        "tweets": len(posted),
        "p50_ms": statistics.median(waited),
        "p99_ms": percentile(waited, 99),
        "max_ms": max(waited),
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many per cent do not exceed."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def _post(
    system: System,
    dice: random.Random,
    authors: Sequence[tuple[int, str]],
    count: int,
    rate: float | None,
) -> dict[int, float]:
    """Post tweets, wait for the last of their notifications, check them all; return moments."""
    posts = [(dice.choice(authors), graphs.text(dice)) for _ in range(count)]
    before, started = checking.notifications(), time.monotonic()
    asked = [(author_id, text) for (author_id, _), text in posts]
    made = post_tweets(system.place.port, asked, rate=rate)
    tweets = [
        graphs.Tweet(number, author_id, author, text)
        for (number, _), ((author_id, author), text) in zip(made, posts, strict=True)
    ]
    wanted = checking.expect(tweets)
    checking.await_rows(lambda: checking.notifications() - before, wanted, started)
    checking.check()
    return dict(made)
