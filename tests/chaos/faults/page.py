"""The table of faults as docs/reliability.md shows it."""

from __future__ import annotations

from tests.chaos.faults.columns import COLUMNS
from tests.chaos.faults.results import Result, Results
from tests.chaos.faults.rows import ROWS
from tests.projects import ROOT

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measured -->", "<!-- end: measured -->"


def measured(results: Results) -> str:
    """Return the table of the results, and what was run when."""
    lines = [
        f"| fault | full length | {' | '.join(column.title for column in COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    found: list[Result] = []
    for name, row in ROWS.items():
        cells = []
        for column in COLUMNS:
            result = results.load(name, column)
            if result is not None:
                found.append(result)
                cells.append(result.cell())
            else:
                cells.append("not run" if column in row.columns else "n/a")
        lines.append(f"| {row.title} | {row.length} | {' | '.join(cells)} |")
    lines += ["", "| run | servers | feedbus | seed | date (UTC) | minutes |", "|---" * 6 + "|"]
    lines += [
        f"| {each.row}, {each.column} | {each.servers} | {each.feedbus} | {each.seed} |"
        f" {each.date} | {each.seconds / 60:.1f} |"
        for each in found
    ]
    return "\n".join(lines) + "\n"


def write(results: Results) -> None:
    """Replace the measured part of the page."""
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{measured(results)}\n{END}{tail}")
