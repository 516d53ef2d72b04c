"""feedbus balance: weights that even out given keys over the shards of a ring."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from feedbus.cli import Context, counted
from feedbus.cli.keys import KEYS, Keys
from feedbus.cli.names import QUEUE
from feedbus.cli.spread import Spread, find_ring
from feedbus.cli.traffic import Pair, Tally, pairs_of_keys, pairs_of_rows
from feedbus.errors import UsageError
from feedbus.ring import Balance, Ring, frontier, placer
from feedbus.topology import Generation, Topology

if TYPE_CHECKING:
    from feedbus.config.editing import Weights

MOST_BUCKETS = 10_000
# What is gained by less than this is not worth more buckets.
CLOSE = 0.005
ALTERNATIVES_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Found:
    """A ring as it is, as it would be, and which keys would move."""

    exchange: str
    tally: Tally
    before: Spread
    after: Spread
    moved: float
    weights: Mapping[str, Weights]
    choices: Sequence[Balance]

    @property
    def changes(self) -> bool:
        """Whether other weights than those that stand are more even."""
        return self.after is not self.before

    def evenness(self, balance: Balance) -> float:
        """Return the busiest queue's records over the mean."""
        return balance.busiest * len(balance.weights) / self.tally.total

    @property
    def floor(self) -> float:
        """Below what no weights bring it: a key goes to one queue as a whole."""
        mean = self.tally.total / len(self.before.members)
        return max(1.0, self.tally.heaviest_load / mean)


@click.command(
    "balance",
    epilog="""\b
Examples:
  feedbus balance update_feed --keys 1..1000
  feedbus balance update_feed --keys users.txt --target 1.05
  feedbus balance update_feed --keys traffic.tsv --traffic 2 --write
  feedbus balance update_feed --query 'SELECT reader_id, count(*) FROM feed GROUP BY 1'
""",
)
@click.argument("queue", type=QUEUE)
@click.option(
    "--keys",
    type=KEYS,
    metavar="FILE|-|A..B",
    help="Routing keys: one on each line (a key on two lines counts twice), or a range of numbers.",
)
@click.option(
    "--query",
    metavar="SQL",
    help="Routing keys from the store, which is only read; a second column is their traffic.",
)
@click.option(
    "--traffic",
    metavar="FILE|COLUMN",
    help="How many records each key gets: a file with a key, a tab or comma, and a number on "
    "each line; or a column of the file of keys by number, of the query by number or name.",
)
@click.option(
    "--max-buckets",
    type=click.IntRange(1, MOST_BUCKETS),
    default=200,
    show_default=True,
    metavar="N",
    help="The most buckets of the whole ring; many cost RabbitMQ throughput.",
)
@click.option(
    "--target",
    type=click.FloatRange(min=1),
    metavar="RATIO",
    help="Take the fewest buckets that bring max/mean down to this.  "
    f"[default: within {CLOSE} of the best]",
)
@click.option("--write", is_flag=True, help="Set the weights in the topology file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.pass_obj
def command(  # noqa: PLR0913 -- an argument for each option
    context: Context,
    queue: str,
    *,
    keys: Keys | None,
    query: str | None,
    traffic: str | None,
    max_buckets: int,
    target: float | None,
    write: bool,
    as_json: bool,
) -> None:
    """Find weights that even out keys over the shards of QUEUE.

    QUEUE is a queue on a hash exchange, or that exchange: all queues of one share its ring, and
    all of them get weights. Weights that stand are replaced, also unequal ones that were meant:
    the shards are evened out as if all were to get the same. What is predicted is what RabbitMQ
    and the embedded broker do.
    """
    if (keys is None) == (query is None):
        msg = "expected either --keys or --query"
        raise click.UsageError(msg)
    topology = context.load()
    generation = find_ring(topology, queue, context.topology_path)
    if max_buckets < len(generation.members):
        members = len(generation.members)
        msg = f"--max-buckets: expected at least {members}, one for each queue, got {max_buckets}"
        raise UsageError(msg)
    tally = Tally()
    with _pairs(topology, keys, query, traffic) as pairs:
        tally.add(pairs)
    _check(tally, traffic)
    found = find(topology, generation, tally, max_buckets, target)
    written = write and found.changes
    refusal: UsageError | None = None
    if written:
        from feedbus.config.editing import rewrite

        try:
            rewrite(topology, found.weights)
        except UsageError as error:
            written, refusal = False, error
    if as_json:
        click.echo(json.dumps(_report(found, written=written), indent=2, ensure_ascii=False))
    else:
        click.echo(_told(found, max_buckets, target))
        if written:
            click.echo(f"\nwritten to {context.topology_path}; `feedbus apply` makes it so")
    if refusal is not None:
        raise refusal


@contextmanager
def _pairs(
    topology: Topology, keys: Keys | None, query: str | None, traffic: str | None
) -> Iterator[Iterator[Pair]]:
    if keys is not None:
        yield pairs_of_keys(keys, traffic)
        return
    from feedbus.outbox import reading

    with reading(topology.store_url, query or "") as (columns, rows):
        yield pairs_of_rows(columns, rows, traffic)


def _check(tally: Tally, traffic: str | None) -> None:
    if not tally.keys:
        msg = "no keys: expected at least one to balance"
        raise UsageError(msg)
    if not tally.total:
        source = f" in {traffic}" if traffic and not traffic.isdecimal() else ""
        msg = f"none of the {counted(tally.keys, 'key')} has any traffic{source}"
        raise UsageError(msg)


def find(
    topology: Topology,
    generation: Generation,
    tally: Tally,
    most_buckets: int,
    target: float | None = None,
) -> Found:
    """Find the weights for a ring of a topology that even out what was tallied.

    Those that stand stay, unless others are more even by enough, or bring it down to the target.
    """
    from feedbus.config.editing import weighted

    shards = len(generation.members)
    before = _spread(topology, generation, tally)
    choices = frontier(tally.loads, shards, most_buckets)
    mean = tally.total / shards
    close = target if target is not None else choices[-1].busiest / mean + CLOSE
    if before.max_over_mean <= close:
        return Found(generation.exchange, tally, before, before, 0.0, {}, choices)
    chosen = next((each for each in choices if each.busiest / mean <= close), choices[-1])
    weights = _by_queue(topology, generation, chosen)
    wanted = weighted(topology, weights).generation(generation.exchange)
    after = _spread(topology, wanted, tally)
    if after.max_over_mean >= before.max_over_mean:  # more buckets stand than are allowed
        return Found(generation.exchange, tally, before, before, 0.0, {}, choices)
    old, new = placer(before.ring), placer(after.ring)
    moved = sum(load for each, load in tally.loads.items() if old(each) != new(each))
    share = moved / tally.total
    return Found(generation.exchange, tally, before, after, share, weights, choices)


def _spread(topology: Topology, generation: Generation, tally: Tally) -> Spread:
    spread = Spread.over(topology, generation)
    place = placer(spread.ring)
    units: Counter[str] = Counter()
    for each, load in tally.loads.items():
        units[place(each)] += load
    whole = tally.unit == 1
    spread.records.update(units if whole else {name: n / tally.unit for name, n in units.items()})
    return spread


def _by_queue(topology: Topology, generation: Generation, chosen: Balance) -> dict[str, Weights]:
    """Return the weights of each queue on a ring, by shard where it has shards."""
    single: dict[str, int] = {}
    by_member = dict(zip((name for name, _ in generation.members), chosen.weights, strict=True))
    shards: dict[str, dict[int, int]] = {}
    for name, weight in by_member.items():
        consumer = topology.consumers[name]
        if consumer.shard is None:
            single[consumer.queue.name] = weight
        else:
            shards.setdefault(consumer.queue.name, {})[consumer.shard] = weight
    return {**shards, **single}


def _toml(found: Found) -> str:
    from feedbus.config.editing import write_weights
    from feedbus.config.positions import write

    return "\n".join(
        f"[{write(('queues', queue))}]\n{write_weights(weights)}"
        for queue, weights in found.weights.items()
    )


def _report(found: Found, *, written: bool) -> dict[str, Any]:
    return {
        "exchange": found.exchange,
        "keys": found.tally.keys,
        "records": found.tally.total / found.tally.unit,
        "before": {"buckets": len(found.before.ring), **found.before.report()},
        "after": {"buckets": len(found.after.ring), **found.after.report()},
        "changes": found.changes,
        "moved_share": round(found.moved, 6),
        "weights": found.weights,
        "toml": _toml(found),
        "choices": [
            {"buckets": each.buckets, "max_over_mean": round(found.evenness(each), 4)}
            for each in found.choices
        ],
        "floor": round(found.floor, 4),
        "written": written,
    }


def _told(found: Found, most_buckets: int, target: float | None) -> str:
    before, after = found.before, found.after
    told = counted(found.tally.keys, "key")
    if found.tally.total != found.tally.keys:
        told = f"{told}, {found.tally.total / found.tally.unit:,.6g} records"
    lines = [f"{told} over {counted(len(before.members), 'shard')}:"]
    lines += [f"  before: max/mean {before.max_over_mean:.3f}, {_buckets(before.ring)}"]
    if not before.equal_weights:
        lines[-1] += f"; {before.max_over_share:.3f} of the share that its weight asks for"
    if not found.changes:
        lines += [*_why_not(found, most_buckets, target), *_limits(found, target)]
        return "\n".join(lines)
    lines += [f"  after:  max/mean {after.max_over_mean:.3f}, {_buckets(after.ring)}", ""]
    width = max(len("SHARD"), *(len(name) for name, _ in after.members))
    lines.append(f"{'SHARD':<{width}}  WEIGHT           {'RECORDS':>11}")
    for (name, old), (_, new) in zip(before.members, after.members, strict=True):
        records = f"{before.records[name]:>11,} -> {after.records[name]:,}"
        lines.append(f"{name:<{width}}  {old:>6,} -> {new:<6,}{records}")
    lines += ["", f"{found.moved:.2%} of the records move to another shard", "", _toml(found)]
    rest = [each for each in found.choices if each.buckets < len(after.ring)]
    if rest:
        told = ", ".join(
            f"{found.evenness(each):.3f} with {each.buckets}" for each in rest[-ALTERNATIVES_SHOWN:]
        )
        lines += ["", f"fewer buckets (--target): {told}"]
    return "\n".join([*lines, *_limits(found, target)])


def _why_not(found: Found, most_buckets: int, target: float | None) -> list[str]:
    if target is not None and found.before.max_over_mean <= target:
        return [f"the weights that stand reach {target:g} already"]
    best = found.evenness(found.choices[-1])
    told = f"no weights of at most {counted(most_buckets, 'bucket')} are more even by enough"
    return [f"{told}: the best come to {best:.3f}"]


def _limits(found: Found, target: float | None) -> list[str]:
    best = found.evenness(found.choices[-1])
    lines = []
    if target is not None and min(best, found.before.max_over_mean) > target:
        lines += ["", f"{target:g} is out of reach: the best is {best:.3f}"]
    if found.floor > 1 and best > found.floor * 0.999:
        key, total = found.tally.heaviest, found.tally.total
        share = f"{found.tally.heaviest_load / total:.2%} of the records"
        told = f"the key '{key}' alone has {share}, {found.floor:.3f} times a shard's mean"
        lines += ["", f"no weights do better: {told}"]
    return lines


def _buckets(ring: Ring) -> str:
    return f"{counted(len(ring), 'bucket')} in all"
