"""`python -m bench`: measure every figure against private servers, and print the table."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import click

from bench import machine
from bench.figures import FIGURES, Figure, chosen
from bench.runs import RUNS
from bench.scale import FULL, SHORT
from bench.stage import Stage
from servers import versions
from servers.postgres import MissingServer, binary

NAMES = list(dict.fromkeys(figure.name for figure in FIGURES))


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 100), default=None, help="Default 5; short: 1.")
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="May be given repeatedly.")
@click.option("--json", "as_json", is_flag=True, help="Print figures and results as JSON.")
@click.option("--short", is_flag=True, help="Run everything tiny: proof that it runs, no figures.")
def main(rounds: int | None, only: tuple[str, ...], *, as_json: bool, short: bool) -> None:
    """Measure all figures in each round, and print the median of each.

    RabbitMQ and PostgreSQL are started privately, on loopback and in temporary folders; both have
    to be installed. Every row that a run stores is checked.
    """
    figures = chosen(only)
    wanted = [name for name in RUNS if any(name in figure.runs for figure in figures)]
    count = rounds or (1 if short else 5)
    _require_servers()
    with Stage.started(SHORT if short else FULL) as stage:
        facts = machine.facts(stage)
        measured: list[dict[str, dict[str, float]]] = []
        for number in range(count):
            measured.append({})
            for name in wanted:
                click.echo(f"round {number + 1} of {count}: {name}", err=True)
                measured[-1][name] = RUNS[name](stage)
            for figure in figures:  # a benchmark that is stopped has reported its finished rounds
                reported = figure.unit.format(figure.value(measured[-1]))
                click.echo(f"round {number + 1} of {count}: {figure.text}: {reported}", err=True)
    values = [[figure.value(results) for results in measured] for figure in figures]
    if as_json:
        rows = [_reported(figure, each) for figure, each in zip(figures, values, strict=True)]
        json.dump({"machine": facts, "figures": rows, "rounds": measured}, sys.stdout, indent=2)
        click.echo()
        return
    for name, fact in facts.items():
        click.echo(f"{name:<12} {fact}")
    click.echo(f"{'rounds':<12} {count}{', all tiny: these are no figures' if short else ''}\n")
    _print(figures, values)


def _require_servers() -> None:
    try:
        binary("postgres")
        missing = None if versions.default() else "RabbitMQ is not installed"
    except MissingServer as error:
        missing = str(error).partition(":")[0]
    if missing:
        msg = f"{missing}; on Debian: apt-get install rabbitmq-server postgresql"
        raise click.ClickException(msg)


def _reported(figure: Figure, values: Sequence[float]) -> dict[str, Any]:
    return {
        "name": figure.name,
        "text": figure.text,
        "must": figure.must,
        "aim": figure.aim,
        "median": statistics.median(values),
        "values": list(values),
    }


def _print(figures: Sequence[Figure], values: Sequence[Sequence[float]]) -> None:
    width = max(len(figure.text) for figure in figures)
    click.echo(f"{'figure':<{width}}  {'median':>18}  {'must':>9}  {'aim':>9}  met   rounds")
    for figure, each in zip(figures, values, strict=True):
        median = statistics.median(each)
        shown = figure.unit.format(median)
        must, aim = (
            "" if goal is None else figure.unit.format(goal) for goal in (figure.must, figure.aim)
        )
        spread = f"{figure.unit.split('}')[0]}}}".format
        click.echo(
            f"{figure.text:<{width}}  {shown:>18}  {must:>9}  {aim:>9}  {figure.met(median):<4}  "
            + " ".join(spread(value) for value in each)
        )


if __name__ == "__main__":
    main()
