"""feedbus balance: compute weights that spread given keys evenly over the shards of a ring.

The output shows how even a spread is as max/mean: the number of records of the busiest shard,
divided by the mean number of records of all shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import click

from feedbus.balance.key_input import Keys
from feedbus.balance.key_traffic import Pair, Tally, pairs_of_keys, pairs_of_rows
from feedbus.balance.spread import find_ring
from feedbus.balance.weights import CLOSE, Proposal, find, report, toml
from feedbus.cli import Context
from feedbus.cli.interruption import reported
from feedbus.cli.keys_option import KEYS
from feedbus.cli.name_completion import QUEUE
from feedbus.config.weight_editing import rewrite
from feedbus.errors import UsageError
from feedbus.ring import Ring
from feedbus.topology import MAX_BUCKETS, Topology
from feedbus.units import counted

ALTERNATIVES_SHOWN = 8  # the largest number of printed alternatives to the chosen weights


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
    help="A read-only query of the store. Its first column has routing keys. A second column has "
    "their traffic.",
)
@click.option(
    "--traffic",
    metavar="FILE|COLUMN",
    help="How many records each key gets. FILE has a key, a tab or comma, and a number on each "
    "line. COLUMN is the number of a column in the file of keys, or the number or name of a column "
    "of the query.",
)
@click.option(
    "--max-buckets",
    type=click.IntRange(1, MAX_BUCKETS),
    default=200,
    show_default=True,
    metavar="N",
    help="The largest number of buckets of the whole ring. Many buckets make RabbitMQ slower.",
)
@click.option(
    "--target",
    type=click.FloatRange(min=1),
    metavar="RATIO",
    help="Use the smallest number of buckets with which the busiest shard gets at most this many "
    "times the mean.  "
    f"[default: within {CLOSE} of the best]",
)
@click.option("--write", is_flag=True, help="Set the weights in the topology file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
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
    """Find weights with which the shards of QUEUE get equal numbers of records.

    QUEUE is a queue that is bound to a hash exchange, or the name of a hash exchange. All queues
    that are bound to the same hash exchange share one ring, so all of them get new weights. The
    weights that the file has now are ignored, even if they are different on purpose.
    RabbitMQ and the embedded broker distribute the keys exactly as predicted.
    """
    if (keys is None) == (query is None):
        msg = f"expected either --keys or --query, got {'neither' if keys is None else 'both'}"
        raise click.UsageError(msg)
    topology = context.load(connects=query is not None)
    generation = find_ring(topology, queue, context.topology_path)
    if max_buckets < len(generation.members):
        members = len(generation.members)
        msg = f"--max-buckets: expected at least {members}, one for each queue, got {max_buckets}"
        raise UsageError(msg)
    tally = Tally()
    with reported(lambda: "the weights were not changed; run the command again"):
        with _pairs(topology, keys, query, traffic) as pairs:
            tally.add(pairs)
        _check(tally, "--query" if keys is None else keys.described, traffic)
        found = find(topology, generation, tally, max_buckets, target)
    written = write and found.changes
    refusal: UsageError | None = None
    if written:
        try:
            rewrite(topology, found.weights)
        except UsageError as error:
            written, refusal = False, error
    if as_json:
        click.echo(json.dumps(report(found, written=written), indent=2, ensure_ascii=False))
    else:
        click.echo(_report_text(found, max_buckets, target))
        if written:
            click.echo(
                f"\nthe weights were written to {context.topology_path}; run `feedbus apply` to use"
                " them"
            )
    if refusal is not None:
        raise refusal


@contextmanager
def _pairs(
    topology: Topology, keys: Keys | None, query: str | None, traffic: str | None
) -> Iterator[Iterator[Pair]]:
    """Give the `with` block an iterator of pairs (key, traffic).

    The traffic of a key is its number of records. With a query, the store is open in the block.

    Args:
        topology: the topology with the store.
        keys: the keys of the option --keys; None with --query.
        query: the SQL query of the option --query; None with --keys.
        traffic: the option --traffic: the file or the column with the traffic; None without it.

    Raises:
        UsageError: the topology has no database for the query, or the query fails.

    """
    if keys is not None:
        yield pairs_of_keys(keys, traffic)
        return
    from feedbus.store.peewee import reading

    if topology.store_url is None:
        if topology.store is None:
            msg = "--query: the topology has no database; set url in [store], or use --keys FILE"
        else:
            msg = (
                "--query: expected a store with the option url; write the result of the query into"
                " a file, and use --keys FILE"
            )
        raise UsageError(msg)
    with reading(topology.store_url, query or "") as (columns, rows):
        yield pairs_of_rows(columns, rows, traffic)


def _check(tally: Tally, source: str, traffic: str | None) -> None:
    """Raise UsageError if no keys were read, or if each key has 0 records.

    Args:
        tally: the keys that were read, with their numbers of records.
        source: where the keys come from, for the error.
        traffic: the option --traffic, for the error; None without it.

    """
    if not tally.keys:
        msg = f"{source}: expected at least one routing key, got none"
        raise UsageError(msg)
    if not tally.total:
        option = f" (--traffic {traffic})" if traffic else ""
        msg = (
            f"{source}: expected a traffic above 0 for at least one key, got 0 for"
            f" {counted(tally.keys, 'key')}{option}"
        )
        raise UsageError(msg)


def _report_text(found: Proposal, max_buckets: int, target: float | None) -> str:
    before, after = found.before, found.after
    sentence = counted(found.tally.keys, "key")
    if found.tally.total != found.tally.keys:
        sentence = f"{sentence}, {found.tally.total / found.tally.unit:,.6g} records"
    lines = [f"{sentence} over {counted(len(before.members), 'shard')}:"]
    lines += [f"  before: max/mean {before.max_over_mean:.3f}, {_buckets(before.ring)}"]
    if not before.equal_weights:
        lines[-1] += f"; the busiest gets {before.max_over_share:.3f} times its share by weight"
    if not found.changes:
        lines += [*_why_not(found, max_buckets, target), *_limits(found, target)]
        return "\n".join(lines)
    lines += [f"  after:  max/mean {after.max_over_mean:.3f}, {_buckets(after.ring)}", ""]
    width = max(len("SHARD"), *(len(name) for name, _ in after.members))
    lines.append(f"{'SHARD':<{width}}  WEIGHT           {'RECORDS':>11}")
    for (name, old), (_, new) in zip(before.members, after.members, strict=True):
        records = f"{before.records[name]:>11,} -> {after.records[name]:,}"
        lines.append(f"{name:<{width}}  {old:>6,} -> {new:<6,}{records}")
    lines += ["", f"{found.moved:.2%} of the records move to another shard", "", toml(found)]
    rest = [each for each in found.choices if each.buckets < len(after.ring)]
    if rest:
        sentence = ", ".join(
            f"{found.evenness(each):.3f} with {each.buckets}" for each in rest[-ALTERNATIVES_SHOWN:]
        )
        lines += ["", f"fewer buckets (--target): {sentence}"]
    return "\n".join([*lines, *_limits(found, target)])


def _why_not(found: Proposal, max_buckets: int, target: float | None) -> list[str]:
    if target is not None and found.before.max_over_mean <= target:
        return [f"the current weights already reach max/mean {target:g}; nothing was changed"]
    best = found.evenness(found.choices[-1])
    sentence = (
        f"weights with at most {counted(max_buckets, 'bucket')} in all cannot be clearly more even"
    )
    return [f"{sentence}: the best reach max/mean {best:.3f}"]


def _limits(found: Proposal, target: float | None) -> list[str]:
    best = found.evenness(found.choices[-1])
    lines = []
    if target is not None and min(best, found.before.max_over_mean) > target:
        lines += ["", f"max/mean {target:g} cannot be reached: the best is {best:.3f}"]
    if found.floor > 1 and best > found.floor * 0.999:
        key, total = found.tally.heaviest, found.tally.total
        share = f"{found.tally.heaviest_load / total:.2%} of the records"
        sentence = f"the key '{key}' alone has {share}, {found.floor:.3f} times a shard's mean"
        lines += ["", f"other weights cannot be better: {sentence}"]
    return lines


def _buckets(ring: Ring) -> str:
    return f"{counted(len(ring), 'bucket')} in all"
