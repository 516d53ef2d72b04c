"""The process that prepares the store and the broker before the consumers start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus.new_project import create

pytestmark = pytest.mark.processes


STORE = """
[store]
adapter = "sqlalchemy"
engine = "db:engine"
prepare = "db:create_tables"
"""
DATABASE = """\
import sqlalchemy
engine = sqlalchemy.create_engine("postgresql+psycopg2://shop:secret@127.0.0.1:1/shop")
def create_tables(topology):
    {body}
"""


def prepare(folder: Path, code: int = 0) -> str:
    """Run the preparation of a project; return what it has printed."""
    command = [sys.executable, "-m", "feedbus.supervisor.preparation", "topology.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def with_database(folder: Path, body: str) -> Path:
    """Create a project whose store is a PostgreSQL that does not run; return its folder."""
    project = create("shop", folder, minimal=True).folder
    (project / "db.py").write_text(DATABASE.format(body=body))
    with (project / "topology.toml").open("a") as file:
        file.write(STORE)
    return project


def test_a_database_that_is_down_when_prepare_uses_it_is_one_line(tmp_path: Path) -> None:
    folder = with_database(tmp_path, "sqlalchemy.MetaData().create_all(engine)")
    (line,) = prepare(folder, 1).splitlines()
    assert line.startswith("error: [store] prepare = 'db:create_tables': store postgresql+psycopg2")
    assert "Connection refused" in line
    assert "; start the database, or correct the URL of the store (raised at " in line
    assert line.endswith("db.py:4)")
    assert "secret" not in line


def test_another_exception_of_prepare_has_its_traceback_and_a_line_about_the_error(
    tmp_path: Path,
) -> None:
    folder = with_database(tmp_path, "raise ValueError('no such schema')")
    lines = prepare(folder, 1).splitlines()
    assert lines[1].startswith(f'  File "{folder}/db.py", line 4')
    assert "[store] prepare = 'db:create_tables' has raised this exception" in lines
    assert lines[-1].startswith("error: ValueError: no such schema; the traceback above")


def test_a_switch_to_a_changed_topology_is_reported_by_a_log_line_of_the_supervisor(
    tmp_path: Path,
) -> None:
    folder = create("shop", tmp_path, minimal=True).folder
    assert prepare(folder) == ""
    text = (folder / "topology.toml").read_text()
    (folder / "topology.toml").write_text(text.replace("= 4 ", "= 3 "))
    (line,) = prepare(folder).splitlines()
    pattern = r"\S+Z WARNING event=publishing_switched consumer=supervisor exchange=orders .*"
    assert re.fullmatch(pattern, line)
