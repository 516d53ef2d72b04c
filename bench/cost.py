"""`python -m bench.cost COMMIT`: processor time of this checkout against that of another commit.

Both deliver the same tweets on private servers, one after the other. Each run is a separate process
(bench/cost_run.py), which imports the code of its checkout.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "bench" / "cost_run.py"
PARTS = ("feedbus", "servers")

Cost = dict[str, dict[str, float]]


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.argument("commit")
@click.option("--pairs", default=10, type=click.IntRange(1, 100), help="Runs of each checkout.")
@click.option("--short", is_flag=True, help="Run everything tiny: proof that it runs, no figures.")
def main(commit: str, pairs: int, *, short: bool) -> None:
    """Compare the processor seconds that this checkout and COMMIT need for 100,000 updates.

    Prints, for each graph, the median seconds of feedbus's own processes and of RabbitMQ and
    PostgreSQL, and the median of the ratios of each pair.
    """
    with _checkout(commit) as other:
        measured: list[tuple[Cost, Cost]] = []
        for number in range(pairs):
            trees = (other, ROOT) if number % 2 == 0 else (ROOT, other)
            found = {tree: _run(tree, short=short) for tree in trees}
            measured.append((found[other], found[ROOT]))
            click.echo(f"pair {number + 1} of {pairs}: {_ratios(*measured[-1])}", err=True)
    click.echo(f"{'graph':<10} {'processes':<10} {commit[:10]:>12} {'here':>10}  ratio (min-max)")
    for graph in measured[0][0]:
        for part in PARTS:
            before, after = ([pair[side][graph][part] for pair in measured] for side in (0, 1))
            ratios = [new / old for old, new in zip(before, after, strict=True)]
            click.echo(
                f"{graph:<10} {part:<10} {statistics.median(before):>10.2f} s"
                f" {statistics.median(after):>8.2f} s  {statistics.median(ratios):.3f}"
                f" ({min(ratios):.3f}-{max(ratios):.3f})"
            )


@contextmanager
def _checkout(commit: str) -> Iterator[Path]:
    """Check a commit out into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="feedbus-cost-") as folder:
        tree = Path(folder) / "checkout"
        _git("worktree", "add", "--detach", "--quiet", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)  # noqa: S607 -- whichever git there is


def _run(tree: Path, *, short: bool) -> Cost:
    # -P: not from the folder of the script, whose modules have names of the standard library.
    done = subprocess.run(
        [sys.executable, "-P", str(RUN), *(["--short"] if short else [])],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Cost = json.loads(done.stdout.splitlines()[-1])
    return found


def _ratios(before: Cost, after: Cost) -> str:
    return ", ".join(
        f"{graph} {part} {after[graph][part] / before[graph][part]:.3f}"
        for graph in before
        for part in PARTS
    )


if __name__ == "__main__":
    main()
