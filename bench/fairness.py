"""`python -m bench.fairness`: how long a small tweet takes while a large one is delivered.

One tweet goes to 300,000 followers. Meanwhile tweets of other authors, each with one follower, are
published five times a second. It measures the seconds from the publishing of each small tweet until
it is in the feed. It also measures the feed entries of the large tweet per second, with and without
the small ones. It looks for entries every 10 ms.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import click

from bench import checking, graphs, scale
from bench.runs.latency import percentile
from bench.stage import EMBEDDED, SERVERS, Stage
from bench.system import System, running
from feedbus import connect
from feedbus.bus import LiveBus
from store.queries.sql import numbers, rows

EACH_SECONDS = 0.2
CHECK_SECONDS = 0.01
READERS = """
    SELECT author_id, follower_id FROM follower JOIN users ON users.id = author_id
    WHERE login LIKE 'fair-small-both%%'
"""
ENTRIES = """
    SELECT tweet_id FROM $NUMBERS CROSS JOIN feed
    WHERE tweet_id >= ? AND reader_id = given.value
"""
NOTIFICATIONS = """
    SELECT (SELECT count(*) FROM email_notification WHERE source = ?)
        + (SELECT count(*) FROM sms_notification WHERE source = ?)
"""


@dataclass(slots=True)
class SmallTweets:
    """Tweets to one follower each; a separate thread publishes them and waits for them."""

    bus: LiveBus
    first_id: int
    seconds: list[float] = field(default_factory=list)
    sent: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Publish during the block; then wait for the last tweet."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _run(self) -> None:
        authors, readers = graphs.authors("fair-small"), dict(rows(READERS))
        waiting: dict[int, tuple[int, float]] = {}
        due = time.monotonic() + EACH_SECONDS
        while waiting or not self._over.is_set():
            now = time.monotonic()
            if now >= due and not self._over.is_set():
                author_id, login = authors[self.sent % len(authors)]
                tweet = graphs.Tweet(self.first_id + self.sent, author_id, login, "a small tweet")
                self.bus.publish_many("publish_tweet", [(tweet.payload(), "publish_tweet")])
                waiting[tweet.id] = readers[author_id], now
                self.sent, due = self.sent + 1, due + EACH_SECONDS
            if waiting:
                pending = numbers({reader for reader, _ in waiting.values()})
                for (tweet_id,) in rows(ENTRIES, pending, self.first_id):
                    if tweet_id in waiting:
                        self.seconds.append(time.monotonic() - waiting.pop(tweet_id)[1])
            time.sleep(CHECK_SECONDS)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--embedded", is_flag=True, help="SQLite alone instead of RabbitMQ and PostgreSQL.")
@click.option("--followers", default=300_000, help="Of the large tweet.")
@click.option("--rounds", default=3, type=click.IntRange(1, 100), help="With and without each.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(*, embedded: bool, followers: int, rounds: int, as_json: bool) -> None:
    """Print median and 95th percentile of small tweets, and the rate of the large one."""
    chosen, kind = replace(scale.FULL, fair_followers=followers), EMBEDDED if embedded else SERVERS
    alone, beside, waited = [], [], []
    with Stage.started(chosen) as stage, running(stage, kind, "fair") as system:
        for _ in range(rounds):
            alone.append(followers / _deliver(system, followers, None))
            seconds: list[float] = []
            beside.append(followers / _deliver(system, followers, seconds))
            waited += seconds
            click.echo(
                f"alone {alone[-1]:,.0f}/s, beside {beside[-1]:,.0f}/s, {len(seconds)} small:"
                f" median {statistics.median(seconds):.2f} s, p95 {percentile(seconds, 95):.2f} s,"
                f" longest {max(seconds):.2f} s",
                err=True,
            )
    found = {
        "small_median_seconds": statistics.median(waited),
        "small_p95_seconds": percentile(waited, 95),
        "large_alone_per_second": statistics.median(alone),
        "large_beside_per_second": statistics.median(beside),
    }
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:<26}{value:>12,.2f}")


def _deliver(system: System, followers: int, seconds: list[float] | None) -> float:
    """Deliver a large tweet, beside small ones that append to seconds; return how long it took."""
    (tweet,) = graphs.make_tweets(graphs.authors("fair"), 1)
    source = str(tweet.id)
    with connect(system.place.topology) as bus:
        small = SmallTweets(bus, tweet.id + 1)
        with small.going_on() if seconds is not None else nullcontext():
            started = time.monotonic()
            bus.publish_many("publish_tweet", [(tweet.payload(), "publish_tweet")])
            took = checking.await_rows(
                lambda: int(rows(NOTIFICATIONS, source, source)[0][0]), followers, started
            )
    if seconds is not None:
        assert len(small.seconds) == small.sent
        seconds += small.seconds
    return took


if __name__ == "__main__":
    main()
