"""feedbus spread: how keys would spread over the shards of a ring, and which would move."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Self

import click

from feedbus.cli import Context, counted
from feedbus.cli.keys import KEYS, Keys
from feedbus.cli.names import QUEUE
from feedbus.errors import UsageError
from feedbus.ring import Ring, max_over_share
from feedbus.topology import Generation, Topology

BAR_WIDTH = 40
MOVES_SHOWN = 20
AT_ONCE = 10_000


@dataclass(slots=True)
class Spread:
    """How many records each member of a ring gets; members are in the order of the topology."""

    ring: Ring
    members: list[tuple[str, int]]
    records: Counter[str] = field(default_factory=Counter)

    @classmethod
    def over(cls, topology: Topology, generation: Generation) -> Self:
        """Return the spread of no record over a generation of the topology."""
        weights = dict(generation.members)
        shown = [(name, weights[name]) for name in topology.consumers if name in weights]
        return cls(Ring.of(generation.members), shown)

    @property
    def max_over_mean(self) -> float:
        """The busiest member's records over those of an average one: 1 is even."""
        busiest = max(self.records[name] for name, _ in self.members)
        return busiest * len(self.members) / self.records.total()

    @property
    def max_over_share(self) -> float:
        """The busiest member's records over its share by weight: 1 is even."""
        return max_over_share(self.records, self.members)

    @property
    def equal_weights(self) -> bool:
        """Whether every member's share is the mean."""
        return len({weight for _, weight in self.members}) == 1

    def report(self) -> dict[str, Any]:
        """Return what --json prints of it."""
        total = self.records.total()
        shards = [
            {
                "name": name,
                "weight": weight,
                "records": self.records[name],
                "share": round(self.records[name] / total, 6),
            }
            for name, weight in self.members
        ]
        return {
            "shards": shards,
            "max_over_mean": round(self.max_over_mean, 4),
            "max_over_share": round(self.max_over_share, 4),
        }


@click.command(
    "spread",
    epilog="""\b
Examples:
  feedbus spread update_feed
  feedbus spread update_feed --keys 1..1000000
  psql -Atc 'select id from users' | feedbus spread update_feed --keys -
  feedbus spread update_feed --against before.toml
""",
)
@click.argument("queue", type=QUEUE)
@click.option(
    "--keys",
    type=KEYS,
    default="1..10000",
    show_default=True,
    metavar="FILE|-|A..B",
    help="Routing keys: one on each line (a key on two lines counts twice), or a range of numbers.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Another topology: which of the keys move from its shards to these.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.pass_obj
def command(
    context: Context, queue: str, keys: Keys, against: Path | None, *, as_json: bool
) -> None:
    """Predict how many records each shard of QUEUE gets.

    QUEUE is a queue on a hash exchange, or that exchange: all queues of one share its ring.
    It asks no broker: RabbitMQ and the embedded broker place a key just so.
    """
    path = context.topology_path
    topology = context.load()
    generation = find_ring(topology, queue, path)
    spread, before = Spread.over(topology, generation), None
    if against:
        earlier = Context(against).load()
        before = Spread.over(earlier, find_ring(earlier, queue, against))
    moves = place(keys, spread, before)
    if not spread.records:
        msg = f"no keys in {'standard input' if keys.source == '-' else keys.source}"
        raise UsageError(msg)
    if as_json:
        report = {"exchange": generation.exchange, "records": spread.records.total()}
        report |= spread.report()
        if before:
            report["against"] = {"file": str(against), **before.report(), **_moved(moves)}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    click.echo(_table(spread))
    if before:
        click.echo(f"\n{_told(moves, str(against), str(path))}")
        click.echo(f"in {against} the busiest gets {before.max_over_mean:.3f} times the mean")


def find_ring(topology: Topology, name: str, path: Path) -> Generation:
    """Return the ring that a queue is on, or that an exchange has.

    Raises:
        UsageError: there is no such queue or exchange, or it has no ring.

    """
    queue = topology.queues.get(name)
    exchange = topology.exchanges.get(queue.exchange if queue else name)
    hashed = [exchange.name for exchange in topology.exchanges.values() if exchange.hashed]
    if exchange is None:
        known = [*topology.queues, *hashed]
        near = get_close_matches(name, known, n=1)
        shard = topology.consumers.get(name)
        if shard:
            hint = f"'{name}' is a shard; ask for its queue, '{shard.queue.name}'"
        else:
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        msg = f"{path}: no queue or hash exchange named '{name}'; {hint}"
        raise UsageError(msg)
    if not exchange.hashed:
        subject = f"queue '{name}' is on '{exchange.name}'," if queue else f"'{name}' is"
        there = f"here: {', '.join(hashed)}" if hashed else "there is none here"
        msg = (
            f"{path}: {subject} a {exchange.type} exchange; only an x-consistent-hash exchange "
            f"spreads keys over shards; {there}"
        )
        raise UsageError(msg)
    generation = topology.generation(exchange.name)
    if not generation.members:
        msg = f"{path}: no queue names the exchange '{exchange.name}', so it has no shards"
        raise UsageError(msg)
    return generation


def place(keys: Iterable[str], spread: Spread, before: Spread | None) -> Counter[tuple[str, str]]:
    """Count each key's place in spread, and in before; return how many went whence and where."""
    pairs: Counter[tuple[str, str]] = Counter()
    left = iter(keys)
    while some := list(islice(left, AT_ONCE)):
        entered = spread.ring.route_many(some)
        spread.records.update(entered)
        if before is not None:
            earlier = before.ring.route_many(some)
            before.records.update(earlier)
            pairs.update(zip(earlier, entered, strict=True))
    return pairs


def _moved(pairs: Counter[tuple[str, str]]) -> dict[str, Any]:
    """Return what --json prints of the keys that move, the largest moves first."""
    largest_first = sorted(pairs.items(), key=lambda one: (-one[1], one[0]))
    moves = [
        {"from": left, "to": entered, "records": records}
        for (left, entered), records in largest_first
        if left != entered
    ]
    moved = pairs.total() - sum(n for (left, entered), n in pairs.items() if left == entered)
    return {"moved": moved, "moved_share": round(moved / pairs.total(), 6), "moves": moves}


def _table(spread: Spread) -> str:
    records = spread.records
    total, busiest = records.total(), max(records.values())
    width = max(len("SHARD"), *(len(name) for name, _ in spread.members))
    lines = [f"{'SHARD':<{width}}  WEIGHT  {'RECORDS':>11}   SHARE"]
    for name, weight in spread.members:
        line = f"{name:<{width}}  {weight:>6,}  {records[name]:>11,}  {records[name] / total:>6.2%}"
        lines.append(f"{line}  {_bar(records[name] / busiest)}".rstrip())
    lines.append("")
    times = f"{spread.max_over_mean:.3f} times the mean"
    if not spread.equal_weights:
        times = f"{spread.max_over_share:.3f} times its share by weight"
    shards = counted(len(spread.members), "shard")
    lines.append(f"{counted(total, 'record')} over {shards}: the busiest gets {times}")
    return "\n".join(lines)


def _bar(part: float) -> str:
    if not sys.stdout.isatty():
        return ""
    block = "█" if sys.stdout.encoding.lower().startswith("utf") else "#"
    return click.style(block * round(part * BAR_WIDTH), fg="cyan")


def _told(pairs: Counter[tuple[str, str]], left: str, entered: str) -> str:
    found = _moved(pairs)
    moves = found["moves"]
    verb = "moves" if found["moved"] == 1 else "move"
    share = f"{found['moved']:,} of {counted(pairs.total(), 'record')} ({found['moved_share']:.2%})"
    lines = [f"from {left} to {entered}: {share} {verb} to another shard"]
    width = max((len(move["from"]) for move in moves), default=0)
    lines += [
        f"  {move['from']:<{width}} -> {move['to']}  {move['records']:,}"
        for move in moves[:MOVES_SHOWN]
    ]
    if len(moves) > MOVES_SHOWN:
        rest = sum(move["records"] for move in moves[MOVES_SHOWN:])
        ways = counted(len(moves) - MOVES_SHOWN, "further way")
        lines.append(f"  … {rest:,} more in {ways}; --json has all")
    return "\n".join(lines)
