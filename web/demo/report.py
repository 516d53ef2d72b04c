"""The output of a demo: progress on a terminal, a line for each step, the spread, the figures."""

from __future__ import annotations

import sys
import time

import click

from feedbus import metrics
from feedbus.topology import Topology
from web.demo.tally import Counts, Tally

BAR = 30
TICK_SECONDS = 0.1
PLAIN_TICK_SECONDS = 5.0


class Report:
    """Prints what a demo does and finds to stdout; a demo has one Report object."""

    def __init__(self) -> None:
        """Start the clock of the demo."""
        self._started = self._reported = time.monotonic()
        self._live = sys.stdout.isatty()

    def step(self, text: str) -> None:
        """Print a line with the time since the start: a step of the demo is done.

        Args:
            text: what was done.

        """
        self._clear()
        clock = click.style(f"{time.monotonic() - self._started:5.1f} s", dim=True)
        click.echo(f"{clock}  {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of a step: a bar on a terminal, otherwise a line from time to time.

        Args:
            what: the name of what is created.
            done: the number so far.
            total: the number at the end.

        """
        now = time.monotonic()
        if now - self._reported < (TICK_SECONDS if self._live else PLAIN_TICK_SECONDS):
            return
        self._reported = now
        text = f"{what} {done:,} of {total:,}"
        if not self._live:
            self.step(text)
            return
        filled = BAR * done // max(total, 1)
        click.echo(f"\r         {'█' * filled}{'·' * (BAR - filled)}  {text}\033[K", nl=False)

    def spread(self, topology: Topology, tally: Tally) -> None:
        """Print for each shard the feed entries that it owns, and the records that it has handled.

        Args:
            topology: the topology of the demo.
            tally: counts the feed entries of each shard.

        """
        owned = tally.by_shard()
        handled = metrics.totals(topology.var / "metrics")
        highest = max(owned.values(), default=1)
        mean = sum(owned.values()) / max(len(owned), 1)
        click.echo("\nshard            entries   handled")
        for name, consumer in topology.consumers.items():
            if consumer.shard is None:
                continue
            count = owned.get(name, 0)
            bar = click.style("█" * round(BAR * count / highest), fg="cyan")
            click.echo(f"{name:<14} {count:>9,} {handled.get(name, {}).get('ack', 0):>9,}  {bar}")
        click.echo(f"max/mean {highest / max(mean, 1):.2f}\n")

    def figures(self, stored: Counts, expected: Counts, tweets: int, seconds: float) -> None:
        """Print the numbers of stored rows, whether they are as expected, and the rates.

        Args:
            stored: the numbers of stored rows.
            expected: the numbers that result from the tweets.
            tweets: the number of posted tweets.
            seconds: the time from the first post to the last row.

        """
        right = stored == expected
        verdict = click.style("as expected", fg="green") if right else f"expected {expected}"
        click.echo(f"{stored}: {verdict}")
        click.echo(
            f"{stored.entries / seconds:,.0f} feed updates/s, {tweets / seconds:,.0f} tweets/s, "
            "posted over HTTP, each update with its notification, to the last row"
        )

    def where_to_look(self) -> None:
        """Print which pages and commands to use next."""
        click.echo("""
next:  make up                         start the system; its page: http://127.0.0.1:8672
       feedbus status                  processes and waiting messages  (.venv/bin/feedbus)
       feedbus spread update_feed      the keys of each shard; then edit shards in topology.toml
       less README.md                  the introduction""")

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\033[K", nl=False)
