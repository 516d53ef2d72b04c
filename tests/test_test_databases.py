"""docs/how-to/database.md: which databases suit tests that also use other threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import DOCS, Block, blocks
from tests.projects import environment_without_options

pytestmark = pytest.mark.processes
PAGE = [each for each in blocks(DOCS / "how-to" / "database.md") if each.file is not None]
TESTS = """\
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from app import Order
from db import Reservation, engine
from feedbus.testing import TestSystem
from sqlalchemy.orm import Session

@pytest.fixture
def shop():
    with TestSystem("topology.toml") as system:
        yield system
    engine.dispose()
    {deletion}

def count():
    with Session(engine) as session:
        return session.query(Reservation).count()

@pytest.mark.parametrize("number", [1, 2])
def test_another_thread_sees_the_reservation(shop, number):
    shop.publish("orders", Order(1, "chair", "ann"), key="chair", message_id="one")
    shop.run()
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(count).result() == 1
"""


def outcome(folder: Path, conftest: Block, deletion: str) -> str:
    """Run tests in the page's SQLAlchemy project; return what pytest prints."""
    for block in PAGE[:3]:
        (folder / str(block.file)).write_text(block.text)
    (folder / "conftest.py").write_text(conftest.text)
    (folder / "test_app.py").write_text(TESTS.format(deletion=deletion))
    # No plugin but feedbus is loaded: the import of the others takes seconds.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "feedbus"],
        cwd=folder,
        env=environment_without_options() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_only_a_file_is_seen_by_all_threads_of_a_test(tmp_path: Path) -> None:
    in_memory, in_a_file = [each for each in PAGE if each.file == "conftest.py"]
    assert [each.file for each in PAGE[:3]] == ["topology.toml", "db.py", "app.py"]
    for each in ("memory", "file"):
        (tmp_path / each).mkdir()
    printed = outcome(tmp_path / "memory", in_memory, "pass")
    assert "no such table: reservations" in printed
    assert "2 failed" in printed
    deletion = "Path(engine.url.database).unlink()"
    assert f"`{deletion}`" in (DOCS / "how-to" / "database.md").read_text()
    assert "2 passed" in outcome(tmp_path / "file", in_a_file, deletion)
