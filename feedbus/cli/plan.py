"""feedbus plan: show what `feedbus apply` would do, and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from feedbus.cli import Context
from feedbus.cli.keys_option import KEYS
from feedbus.name_list import listed
from feedbus.printable import printable
from feedbus.units import counted

if TYPE_CHECKING:
    from feedbus.balance.key_input import Keys
    from feedbus.plan import Change, Draining, Evenness, HotKey, Plan, RingChange, Wait
    from feedbus.topology import Topology

SHOWN = 3  # the number of old shards that the text names
SIGNS = {
    "create": ("+", "green"),
    "change": ("~", "yellow"),
    "delete": ("-", "red"),
    "dangerous": ("!", "bright_red"),
}


@click.command(
    "plan",
    epilog="""\b
Examples:
  feedbus plan
  feedbus plan --check           # in CI: exit code 1 if apply would change anything
  feedbus plan --json | jq .rings
  feedbus plan --keys traffic.tsv --traffic 2      # names a key that is too busy for one shard
""",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a list.")
@click.option("--check", is_flag=True, help="Exit with code 1 if apply would change anything.")
@click.option(
    "--delete-nonempty",
    metavar="NAME",
    multiple=True,
    help="Plan to delete this queue with its messages.",
)
@click.option(
    "--keys",
    type=KEYS,
    metavar="FILE|-|A..B",
    help="A sample of routing keys: one on each line, or a range of numbers.",
)
@click.option(
    "--traffic",
    metavar="FILE|COLUMN",
    help="How many records each of these keys gets, as for `feedbus balance`.",
)
@click.pass_obj
def command(  # noqa: PLR0913 -- an argument for each option
    context: Context,
    *,
    as_json: bool,
    check: bool,
    delete_nonempty: tuple[str, ...],
    keys: Keys | None,
    traffic: str | None,
) -> None:
    """Compare the topology with the live broker and the running supervisor.

    `feedbus plan` changes nothing. `feedbus apply` makes the changes that the plan shows. If the
    plan marks a change as dangerous, `feedbus apply` makes it only with an option that allows it.

    With a sample of keys, the plan also names each key that has more records than an average shard
    of a changed ring. One shard handles all records of a key, so more shards do not help.
    """
    if traffic is not None and keys is None:
        msg = "--traffic needs --keys: expected both options, got --traffic alone"
        raise click.UsageError(msg)
    topology = context.load()
    found = compute_plan(topology, delete_nonempty)
    if keys is not None:
        found = _with_hot_keys(topology, found, keys, traffic)
    show(found, as_json=as_json)
    if check and not found.empty:
        sys.exit(1)


def compute_plan(topology: Topology, delete_nonempty: tuple[str, ...]) -> Plan:
    """Compare a topology with the broker and the supervisor; return the changes to make.

    `feedbus plan` and `feedbus apply` call the function.

    Args:
        topology: the topology.
        delete_nonempty: the names of queues that may be deleted with their messages.

    Raises:
        UsageError: the supervisor uses another broker, because an environment variable in the
            broker's URL has another value for it. A URL that was edited in the file is allowed.

    """
    from feedbus.plan.planning import make_plan
    from feedbus.supervisor.broker_mismatch import require_same_broker
    from feedbus.supervisor.outdated_processes import compare_watchers

    require_same_broker(topology, changes_broker=True)
    watchers, note = compare_watchers(topology) or (None, "")
    plan = make_plan(topology, watchers, delete_nonempty=delete_nonempty)
    return replace(plan, notes=(*plan.notes, note)) if note else plan


def _with_hot_keys(topology: Topology, plan: Plan, keys: Keys, traffic: str | None) -> Plan:
    """Return the plan; its rings name the busiest key of a sample as their hot key.

    A ring names the key only if the key has more records than an average shard of the ring.

    Args:
        topology: the topology.
        plan: the plan with the changed rings.
        keys: the sample, from the option --keys.
        traffic: the option --traffic: the file or the column with the number of records of each
            key; None without it.

    """
    from feedbus.balance.key_traffic import Tally, pairs_of_keys
    from feedbus.plan.ring_changes import hot_key

    tally = Tally()
    tally.add(pairs_of_keys(keys, traffic))
    share = tally.heaviest_load / max(tally.total, 1)
    rings = (
        replace(ring, hot_key=hot_key(topology.generation(ring.exchange), tally.heaviest, share))
        for ring in plan.rings
    )
    return replace(plan, rings=tuple(rings))


def show(plan: Plan, *, as_json: bool) -> None:
    """Print the changes of a plan to stdout.

    Args:
        plan: the changes that `feedbus apply` would make.
        as_json: whether to print one JSON object; else one change is printed on each line.

    """
    if as_json:
        click.echo(json.dumps(plan.report(), indent=2, ensure_ascii=False))
    else:
        click.echo("\n".join(_lines(plan)))


def _lines(plan: Plan) -> Iterator[str]:
    shown = [change for change in plan.changes if not _is_empty_auxiliary_queue(change)]
    width = max((len(change.name) for change in shown), default=0)
    for change in shown:
        waiting = f" ({counted(change.messages, 'message')})" if change.messages else ""
        text = f"{change.kind:<8}  {change.name:<{width}}  {change.reason}{waiting}"
        yield _signed(change.action, text)
    for action in ("create", "delete"):
        count = sum(
            _is_empty_auxiliary_queue(change) and change.action == action for change in plan.changes
        )
        if count:
            queues = counted(count, "empty queue")
            text = f"{'queues':<8}  {queues} for retries and dead letters; see --json"
            yield _signed(action, text)
    for ring in plan.rings:
        yield from _ring(ring)
    for one in plan.draining:
        yield _draining(one, runs=plan.watchers is not None)
    if plan.watchers is not None and plan.watchers.kept and not plan.empty:
        kept = len(plan.watchers.kept)
        names = counted(kept, "other consumer or process", "other consumers and processes")
        yield f"  {names} unchanged"
    yield from _notes(plan)
    if plan.empty:
        yield "nothing to change"
        return
    counts = plan.counts()
    parts = [f"{counts[one]} to {one}" for one in ("create", "change", "delete") if counts[one]]
    if counts["dangerous"]:
        parts.append(
            f"{counts['dangerous']} dangerous: `feedbus apply` changes nothing because of the"
            " lines marked with !"
        )
    yield ""
    yield click.style(f"{', '.join(parts)}", bold=True)


def _notes(plan: Plan) -> Iterator[str]:
    shown = any(ring.unacknowledged_messages for ring in plan.rings)
    shown = shown or any(one.unacknowledged for one in plan.draining)
    if shown and plan.unacknowledged_age_seconds:
        age = f"up to {plan.unacknowledged_age_seconds:.0f} s old"
        yield f"  the numbers of unacknowledged messages are {age}: RabbitMQ reports them late"
    for note in plan.notes:
        yield f"  {note}"


def _is_empty_auxiliary_queue(change: Change) -> bool:
    """Whether a change creates or deletes an empty queue for retries or dead letters."""
    from feedbus.broker_names import Role, has_role

    auxiliary = has_role(change.name, {Role.DEAD, Role.RETRY})
    return auxiliary and not change.messages and change.action in {"create", "delete"}


def _signed(action: str, text: str) -> str:
    sign, colour = SIGNS[action]
    return click.style(f"{sign} {printable(text)}", fg=colour)


def _ring(ring: RingChange) -> Iterator[str]:
    generation = f"{ring.old} -> {ring.new}" if ring.old else ring.new
    yield _signed(ring.action, f"{'ring':<8}  {ring.exchange}  generation {generation}")
    yield f"    why        {ring.reason}"
    if ring.old == ring.new:
        return
    if ring.moved_share is not None:
        yield f"    keys       {ring.moved_share:.1%} move to another shard"
    even = ", and ".join(_even(one) for one in (ring.before, ring.after) if one)
    if even:
        yield f"    load       the busiest shard gets {even}"
    if ring.old:
        yield from _backlog(ring)
    if ring.hot_key is not None:
        yield click.style(f"    hot key    {_hot_key(ring.hot_key)}", fg=SIGNS["change"][1])


def _even(evenness: Evenness) -> str:
    times = f"{evenness.max_over_share:.3f} times its share"
    return f"{times} with {counted(evenness.shards, 'shard')}"


def _backlog(ring: RingChange) -> Iterator[str]:
    """Yield the lines about the messages in old shards, and about the keys that wait for them."""
    if not (ring.backlog_messages or ring.unacknowledged_messages):
        yield "    backlog    none: the new shards are read immediately"
        return
    counts = _counts(ring.backlog_messages, ring.unacknowledged_messages)
    yield f"    backlog    {counts} in old shards"
    if ring.waits_for_all:
        yield "    order      every new message waits until all old shards are empty"
    else:
        yield "    order      a new message waits only until the old shard of its key is empty"
    if ring.drain_seconds is not None:
        yield (
            f"    duration   about {ring.drain_seconds:,.0f} s for all old shards, if each of them"
            f" continues at its rate of the last {ring.measured_seconds:.0f} s, without the"
            " messages that arrive before the switch"
        )
    for wait in ring.waits[:SHOWN]:
        yield f"    waits      {_wait(wait, ring.measured_seconds)}"
    rest = ring.waits[SHOWN:]
    if rest:
        counts = _counts(sum(one.messages for one in rest), sum(one.unacknowledged for one in rest))
        shards = counted(len(rest), "more old shard")
        yield f"    waits      the same for {counts} in {shards}, which --json names"


def _counts(ready: int, unacknowledged: int) -> str:
    """Return a text with the numbers of ready and unacknowledged messages."""
    if not unacknowledged:
        return counted(ready, "message")
    return f"{ready:,} ready and {counted(unacknowledged, 'unacknowledged message')}"


def _wait(wait: Wait, measured_seconds: float | None) -> str:
    counts = _counts(wait.messages, wait.unacknowledged)
    if wait.seconds is not None:
        duration = f"about {wait.seconds:,.0f} s at {wait.per_second:,.1f} messages per second"
    elif not wait.consumers:
        duration = "no consumer reads them now"
    elif measured_seconds is None:
        duration = ""
    else:
        duration = f"this host has handled none of them in {measured_seconds:.0f} s"
    end = f" ({duration})" if duration else ""
    if not wait.moved_to:
        return f"keys of {wait.shard} stay there, behind its {counts}{end}"
    new = listed(wait.moved_to)
    return f"keys that move from {wait.shard} to {new} wait for its {counts}{end}"


def _hot_key(hot: HotKey) -> str:
    return (
        f"'{printable(hot.key)}' has {hot.share:.1%} of the records, and an average shard"
        f" {hot.shard_share:.1%}: more shards do not help, because one shard handles all records of"
        " a key"
    )


def _draining(one: Draining, *, runs: bool) -> str:
    """Return the line about an old generation whose queues still exist.

    Args:
        one: the generation.
        runs: whether a supervisor runs. If so, the line says that the consumers handle the messages
            and delete the queues.

    """
    counts = _counts(one.messages, one.unacknowledged)
    left = f"  generation {one.digest} of {one.exchange} drains: {counts}"
    if not runs:
        return f"{left} left"
    has_messages = one.messages or one.unacknowledged
    first = "the consumers handle them, then delete" if has_messages else "the consumers delete"
    return f"{left} left; {first} its queues, without another command"
