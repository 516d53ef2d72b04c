"""The table of faults as docs/reliability.md shows it."""

from __future__ import annotations

from tests.chaos.faults.columns import COLUMNS
from tests.chaos.faults.results import Results
from tests.chaos.faults.rows import ROWS
from tests.projects import ROOT

PAGE = ROOT / "docs" / "reliability.md"
RUN = ("run", "servers", "feedbus", "seed", "date (UTC)", "minutes", "injected, and measured")
BEGIN, END = "<!-- measured -->", "<!-- end: measured -->"


def measured(results: Results, earlier: str = "") -> str:
    """Return the table of the results, and the list of runs with their times.

    Args:
        results: the results of the cells that were run.
        earlier: the table of the page; cells that were not run now are taken from it.

    """
    cells_before, runs_before = _cells_of(earlier), _runs_of(earlier)
    lines = [
        f"| fault | full length | {' | '.join(column.title for column in COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    runs: list[str] = []
    for name, row in ROWS.items():
        cells = []
        for place, column in enumerate(COLUMNS):
            result = results.load(name, column)
            run = f"{name}, {column}"
            if result is not None:
                cells.append(result.cell())
                runs.append(
                    f"| {run} | {result.servers} | {result.feedbus} | {result.seed} |"
                    f" {result.date} | {result.seconds / 60:.1f} | {result.details()} |"
                )
            elif run in runs_before and row.title in cells_before:
                cells.append(cells_before[row.title][place])
                runs.append(runs_before[run])
            else:
                cells.append("not run" if column in row.columns else "n/a")
        lines.append(f"| {row.title} | {row.length} | {' | '.join(cells)} |")
    lines += ["", f"| {' | '.join(RUN)} |", "|---" * len(RUN) + "|"]
    return "\n".join([*lines, *runs]) + "\n"


def write(results: Results) -> None:
    """Replace the measured part of the page; cells without a result stay."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    shown, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n\n{measured(results, shown)}\n{END}{tail}")


def _cells_of(table: str) -> dict[str, list[str]]:
    """Return the cells of a page by the title of their row, without its length."""
    rows = (line.strip("| ").split(" | ") for line in table.splitlines())
    titles = {row.title for row in ROWS.values()}
    return {cells[0]: cells[2:] for cells in rows if cells[0] in titles}


def _runs_of(table: str) -> dict[str, str]:
    """Return the lines about the runs of a page, by row and column."""
    known = {f"{row}, {column}" for row in ROWS for column in COLUMNS}
    lines = {line.strip("| ").split(" | ")[0]: line for line in table.splitlines()}
    return {run: line for run, line in lines.items() if run in known}
