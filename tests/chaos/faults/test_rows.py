"""The rows of `make chaos` in their short form: the cheapest in every run, all in `make test-all`.

FEEDBUS_CHAOS_ROWS=all runs every cell.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servers.postgres import MissingServer
from tests import required_servers as required
from tests.chaos.faults.cells import Cell
from tests.chaos.faults.columns import COLUMNS
from tests.chaos.faults.rows import ROWS
from tests.small_disks import CannotMount

SEED = int(os.environ.get("FEEDBUS_CHAOS_SEED", "20"))
OFTEN = [("kills", "embedded"), ("topology", "embedded")]
ALL = [(name, column) for name, row in ROWS.items() for column in row.columns]
CHOSEN = ALL if os.environ.get("FEEDBUS_CHAOS_ROWS") == "all" else OFTEN

pytestmark = [pytest.mark.chaos, pytest.mark.processes]


@pytest.mark.parametrize(("row", "column"), CHOSEN)
def test_nothing_is_lost_doubled_or_reordered(row: str, column: str, tmp_path: Path) -> None:
    if COLUMNS[column].rabbitmq:
        required.rabbitmq(COLUMNS[column].rabbitmq)
    cell = Cell(row, column, ROWS[row].short_size, SEED, short=True)
    try:
        result = ROWS[row].run(cell, tmp_path)
    except (MissingServer, CannotMount) as error:
        required.missing(str(error))
    assert result.ok, result.problems
    assert result.faults
