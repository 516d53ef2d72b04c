"""feedbus check: list every problem in the topology."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from feedbus.cli import Context
from feedbus.errors import TopologyError
from feedbus.topology import Topology
from feedbus.units import counted


@click.command(
    "check",
    epilog="\b\nExamples:\n  feedbus check\n  feedbus check other/topology.toml\n"
    "  feedbus check --json | jq .problems",
)
@click.argument("file", required=False, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print problems and summary as JSON.")
@click.pass_context
def command(ctx: click.Context, file: str | None, *, as_json: bool) -> None:
    """Check a topology file and the handlers that it names, and list every problem.

    FILE is the file to check; by default it is the file of --topology. A problem begins with
    FILE:LINE:COLUMN, so an editor can open the place. If there is a problem, the exit code is 1.
    """
    path = Path(file) if file else ctx.find_object(Context).topology_path  # type: ignore[union-attr]
    try:
        topology = Context(path).load(import_handlers=True)
    except TopologyError as error:
        if as_json:
            problems = [dataclasses.asdict(problem) for problem in error.problems]
            click.echo(_json({"ok": False, "problems": problems, "summary": None}))
        else:
            for problem in error.problems:
                click.echo(str(problem))
            click.echo(f"{path}: {counted(len(error.problems), 'problem')}", err=True)
        ctx.exit(1)
    if as_json:
        click.echo(_json({"ok": True, "problems": [], "summary": summarise(topology)}))
    else:
        click.echo(f"{path}: ok, {_sentence(topology)}")
        for note in _notes(topology):
            click.echo(f"note: {note}", err=True)


def summarise(topology: Topology) -> dict[str, int]:
    """Return the numbers of exchanges, queues, consumers and other objects, by their kind.

    `feedbus check` prints them for a topology without problems.
    """
    return {
        "exchanges": len(topology.exchanges),
        "queues": len(topology.queues),
        "shards": sum(queue.shards or 0 for queue in topology.queues.values()),
        "consumers": len(topology.consumers),
        "processes": len(topology.processes),
        "commands": len(topology.commands),
    }


def _sentence(topology: Topology) -> str:
    nouns = {"processes": ("other process", "other processes")}
    return ", ".join(
        counted(count, *nouns.get(noun, (noun.removesuffix("s"),)))
        for noun, count in summarise(topology).items()
        if count or noun not in {"shards", "processes", "commands"}
    )


def _notes(topology: Topology) -> Iterator[str]:
    """Yield sentences about options that are correct, but may not have the intended effect."""
    for queue in topology.queues.values():
        exchange = topology.exchanges.get(queue.exchange)
        if exchange is None or exchange.type != "direct":
            continue
        for key in queue.routing_keys:
            if not {"*", "#"}.isdisjoint(key.split(".")):
                yield (
                    f"[queues.{queue.name}] routing_keys: the exchange '{exchange.name}' is of type"
                    f" direct, so '{key}' is no pattern: the queue gets only messages with exactly"
                    " this routing key; patterns need an exchange of type topic"
                )


def _json(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=2, ensure_ascii=False)
