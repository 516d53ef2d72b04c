"""The harness itself: what its reader finds, and what its command does with results."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.chaos.faults import __main__ as command
from tests.chaos.faults import page
from tests.chaos.faults.application.effects import failures
from tests.chaos.faults.results import Result as CellResult
from tests.chaos.faults.results import Results
from tests.chaos.faults.rows import ROWS, Row
from tests.chaos.faults.toml_values import places_of_values
from tests.chaos.faults.topology_files import Mutator
from tests.chaos.faults.verdict import Verdict, check_store
from tests.simulation.history import Record

Rows = list[tuple[str, int, int]]
KEY = next(f"k{n}" for n in range(100) if not any(failures(f"k{n}", m) for m in range(3)))
GOOD: Rows = [(KEY, 0, 1), (KEY, 1, 1), (KEY, 2, 1)]


def verdict_on(folder: Path, updates: Rows, notices: Rows) -> Verdict:
    """Judge a store with these effects of three accepted records."""
    with closing(sqlite3.connect(folder / "effects.db")) as store:
        store.execute(
            "CREATE TABLE effects (sequence INTEGER PRIMARY KEY, stage, key, number, attempt)"
        )
        for stage, rows in (("update", updates), ("notice", notices)):
            store.executemany(
                "INSERT INTO effects (stage, key, number, attempt) VALUES (?, ?, ?, ?)",
                [(stage, *row) for row in rows],
            )
        store.commit()
    return check_store(
        f"sqlite:///{folder}/effects.db", [Record(KEY, number) for number in range(3)]
    )


def test_a_store_with_every_effect_once_and_in_order_is_right(tmp_path: Path):
    assert verdict_on(tmp_path, GOOD, GOOD).ok


@pytest.mark.parametrize(
    ("notices", "kind"),
    [
        (GOOD[:2], "lost"),
        ([*GOOD, GOOD[2]], "doubled"),
        ([GOOD[1], GOOD[0], GOOD[2]], "disordered"),
        ([*GOOD, (KEY, 7, 1)], "other"),
        ([*GOOD[:2], (KEY, 2, 2)], "other"),
    ],
    ids=[
        "a row missing",
        "a row twice",
        "rows exchanged",
        "a row of nothing",
        "an attempt counted",
    ],
)
def test_each_fault_in_the_store_is_found_as_what_it_is(tmp_path: Path, notices: Rows, kind: str):
    verdict = verdict_on(tmp_path, GOOD, notices)
    found = {name for name in ("lost", "doubled", "disordered", "other") if getattr(verdict, name)}
    assert found == {kind}


def test_each_value_of_nested_arrays_and_inline_tables_has_its_place() -> None:
    text = """a = [1, "x#]", [2, {b = 3, c = ['y']}]] # z = 4
[t.u]
d = '''
[5]'''
e = [ 6, # seven
  8 ]
f.g = 1979-05-27
"""
    found = {text[start:end]: depth for start, end, depth in places_of_values(text)}
    assert found == {
        """[1, "x#]", [2, {b = 3, c = ['y']}]]""": 0,
        "1": 1,
        '"x#]"': 1,
        "[2, {b = 3, c = ['y']}]": 1,
        "2": 2,
        "{b = 3, c = ['y']}": 2,
        "3": 3,
        "['y']": 3,
        "'y'": 4,
        "'''\n[5]'''": 0,
        "[ 6, # seven\n  8 ]": 0,
        "6": 1,
        "8": 1,
        "1979-05-27": 0,
    }


def test_a_single_value_of_an_array_is_mutated() -> None:
    mutator = Mutator(random.Random(20))
    text = 'routing_keys = ["a", "b"]\n'
    changed = {mutator._value(text) for _ in range(10_000)}
    for one in ('["a", 1]', '[1, "b"]', '["a", "b", 1]', '["a", {}]', '["a", ["b", 1]]'):
        assert f"routing_keys = {one}\n" in changed


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Verdict], Result]:
    """Run the command on a row with one cell that ends as given."""

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for the files of the failed cell

    def once(verdict: Verdict, *options: str) -> Result:
        row = Row("a fault", lambda cell, _: cell.result("s", "l", {"f": 1}, verdict), 5, 1)
        monkeypatch.setitem(ROWS, "kills", row)
        words = ["kills", "--column", "embedded", "--folder", str(tmp_path), *options]
        return CliRunner().invoke(command.main, words)

    return once


def test_a_cell_that_has_failed_is_run_again_and_one_that_has_passed_is_not(run):
    failed = run(Verdict(lost=["update: a1 was accepted and is lost"]))
    assert failed.exit_code == 1
    assert "**failed**: l; 1 lost, 0 doubled, 0 out of order" in failed.stdout
    passed = run(Verdict())
    assert passed.exit_code == 0
    assert "kills on embedded: 5" in passed.stderr
    again = run(Verdict(lost=["it is not run"]))
    assert again.exit_code == 0
    assert "kills on embedded" not in again.stderr
    assert "| a fault | 5 records | not run | not run | l |" in again.stdout
    assert again.stdout.strip().endswith("| f: 1 |")


def test_a_cell_that_has_passed_with_fewer_records_is_run_again(run):
    run(Verdict(), "--size", "4")
    longer = run(Verdict())
    assert "kills on embedded: 5" in longer.stderr
    assert "kills on embedded" not in run(Verdict(), "--size", "4").stderr


def test_the_page_keeps_the_cells_that_were_not_run_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    old = CellResult("kills", "embedded", 1, "SQLite", "10 records", {"kill -9 web": 1})
    new = CellResult("kills", "classic", 2, "RabbitMQ", "20 records", {"kill -9 web": 2})
    results.save(old)
    earlier = page.measured(results)
    results.path("kills", "embedded").unlink()
    results.save(new)
    shown = page.measured(results, earlier)
    both = Results(tmp_path)
    both.save(old)
    assert shown == page.measured(both)
    assert "| 20 records | not run | 10 records |" in shown
    assert "| kill -9 web: 1 |" in shown
    assert "| kill -9 web: 2 |" in shown
