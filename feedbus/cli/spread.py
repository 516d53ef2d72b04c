"""feedbus spread: show how keys spread over the shards of a ring, and which would move."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import click

from feedbus.balance.key_input import Keys
from feedbus.balance.spread import Spread, count_records, find_ring, report_of_moves
from feedbus.cli import Context
from feedbus.cli.keys_option import KEYS
from feedbus.cli.name_completion import QUEUE
from feedbus.errors import UsageError
from feedbus.units import counted

BAR_WIDTH = 40  # the width of the bar of the busiest shard, in characters
MOVES_SHOWN = 20  # the largest number of printed pairs of old and new shard


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
    help="Show which keys move from the shards of that topology file to the shards of this one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_obj
def command(
    context: Context, queue: str, keys: Keys, against: Path | None, *, as_json: bool
) -> None:
    """Predict how many records each shard of QUEUE gets.

    QUEUE is a queue that is bound to a hash exchange, or the name of a hash exchange. All queues
    that are bound to the same hash exchange share one ring. The command needs no broker: it
    computes the shard of a key in the same way as RabbitMQ and the embedded broker.
    """
    path = context.topology_path
    topology = context.load(connects=False)
    generation = find_ring(topology, queue, path)
    spread, before = Spread.over(topology, generation), None
    if against:
        earlier = Context(against).load(connects=False)
        before = Spread.over(earlier, find_ring(earlier, queue, against))
    moves = count_records(keys, spread, before)
    if not spread.records:
        msg = f"{keys.described}: expected at least one routing key, got none"
        raise UsageError(msg)
    if as_json:
        report = {"exchange": generation.exchange, "records": spread.records.total()}
        report |= spread.report()
        if before:
            report["against"] = {"file": str(against), **before.report(), **report_of_moves(moves)}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    click.echo(_table(spread))
    if before:
        click.echo(f"\n{_report_text(moves, str(against), str(path))}")
        click.echo(f"in {against} the busiest gets {before.max_over_mean:.3f} times the mean")


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
    """Return the bar of a shard for a terminal; `part` is relative to the busiest shard."""
    if not sys.stdout.isatty():
        return ""
    block = "█" if sys.stdout.encoding.lower().startswith("utf") else "#"
    return click.style(block * round(part * BAR_WIDTH), fg="cyan")


def _report_text(pairs: Counter[tuple[str, str]], old_file: str, new_file: str) -> str:
    """Return lines about the records that move from the shards of one file to those of another.

    Args:
        pairs: maps (old shard, new shard) to a number of records.
        old_file: the path of the topology file with the old shards.
        new_file: the path of the topology file with the new shards.

    """
    found = report_of_moves(pairs)
    moves = found["moves"]
    verb = "moves" if found["moved"] == 1 else "move"
    share = f"{found['moved']:,} of {counted(pairs.total(), 'record')} ({found['moved_share']:.2%})"
    lines = [f"from {old_file} to {new_file}: {share} {verb} to another shard"]
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
