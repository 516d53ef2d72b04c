"""make chaos: run rows of the table of faults, and print the table.

Cells that have passed with this seed are not run again: delete their files in var/chaos to repeat
them.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import click

from tests.chaos.faults import page
from tests.chaos.faults.cells import Cell
from tests.chaos.faults.columns import COLUMNS
from tests.chaos.faults.results import Result, Results
from tests.chaos.faults.rows import ROWS
from tests.chaos.faults.verdict import Verdict
from tests.projects import ROOT

FOLDER = click.Path(path_type=Path, resolve_path=True)  # a row changes the working directory


@click.command(context_settings={"show_default": True})
@click.argument("rows", nargs=-1, type=click.Choice(["all", *ROWS]))
@click.option("--column", "columns", multiple=True, type=click.Choice([*COLUMNS]))
@click.option("--size", type=int, default=0, help="Records; 0 for those of the table.")
@click.option("--seed", type=int, default=20)
@click.option("--short", is_flag=True, help="The short form of each row.")
@click.option("--folder", type=FOLDER, default=ROOT / "var" / "chaos")
@click.option("--write-page", is_flag=True, help="Write the measured table of docs/reliability.md.")
def main(
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    size: int,
    seed: int,
    *,
    short: bool,
    folder: Path,
    write_page: bool,
) -> None:
    """Run ROWS, print the table of all results, and exit with 1 if something is wrong."""
    results = Results(folder / ("short" if short else "full") / f"seed-{seed}")
    failed = False
    for row in ROWS if "all" in rows else rows:
        for column in ROWS[row].columns:
            wanted = size or (ROWS[row].short_size if short else ROWS[row].size)
            known = results.load(row, column)
            if (columns and column not in columns) or (known and known.covers(wanted)):
                continue
            result = run(Cell(row, column, wanted, seed, short))
            results.save(result)
            failed = failed or not result.ok
    click.echo(page.measured(results))
    if write_page:
        page.write(results)
    sys.exit(failed)


def run(cell: Cell) -> Result:
    """Run a cell and report it; its folder stays where something is wrong."""
    click.echo(f"{time.strftime('%H:%M:%S')} {cell.row} on {cell.column}: {cell.size:,}", err=True)
    folder = Path(tempfile.mkdtemp(prefix=f"feedbus-chaos-{cell.row}-{cell.column}-"))
    try:
        result = ROWS[cell.row].run(cell, folder)
    except Exception:  # noqa: BLE001 -- it is in the result, and the other cells are run
        result = cell.result("", "not finished", {}, Verdict(other=[traceback.format_exc()]))
    click.echo(f"{time.strftime('%H:%M:%S')} {'ok' if result.ok else 'FAILED'}: {result}", err=True)
    if result.ok:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        click.echo("\n".join([*result.problems, f"the files of the run are in {folder}"]), err=True)
    return result


if __name__ == "__main__":
    # An interruption ends the servers and the system; what a shell starts in the background would
    # ignore SIGINT.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
