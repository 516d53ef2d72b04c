"""What a demo shows: progress on a terminal, a line a step, then the spread and the figures."""

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
    """Writes to standard output."""

    def __init__(self) -> None:
        """Count time from now."""
        self._started = self._reported = time.monotonic()
        self._live = sys.stdout.isatty()

    def step(self, text: str) -> None:
        """Print that something is done."""
        self._clear()
        clock = click.style(f"{time.monotonic() - self._started:5.1f} s", dim=True)
        click.echo(f"{clock}  {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far something is: a bar on a terminal, a line now and then elsewhere."""
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
        """Show what each shard owns by the ring, and what its consumer has handled."""
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
        """Show what is stored, whether that is right, and how fast it went."""
        right = stored == expected
        verdict = click.style("as expected", fg="green") if right else f"expected {expected}"
        click.echo(f"{stored}: {verdict}")
        click.echo(
            f"{stored.entries / seconds:,.0f} feed updates/s, {tweets / seconds:,.0f} tweets/s, "
            "posted over HTTP, each update with its notification, to the last row"
        )

    def where_to_look(self) -> None:
        """Say what to do next."""
        click.echo("""
next:  make up                         the system, to stay; its page: http://127.0.0.1:8672
       feedbus status                  what runs and what waits  (.venv/bin/feedbus)
       feedbus spread update_feed      where keys go; then edit shards in topology.toml
       less README.md                  what is what""")

    def _clear(self) -> None:
        if self._live:
            click.echo("\r\033[K", nl=False)
