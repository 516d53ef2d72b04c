"""The files of a project under TestSystem: changes, mistakes, and the topology for pytest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus.errors import TopologyError, UsageError
from feedbus.inline.loaded_projects import project
from feedbus.testing import TestSystem
from tests.pages import blocks
from tests.shops import Shop, order

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/how-to/testing.md"


def test_a_changed_file_is_read_again(tmp_path):
    shop = Shop(tmp_path)
    with shop.system() as system:
        assert "late" not in system.topology.queues
    more = '[queues.late]\nexchange = "events"\nhandler = "{module}:mail"'
    shop = Shop(tmp_path, more.format(module=shop.name))
    with shop.system() as system:
        system.publish("events", order())
        system.run()
        assert len(system.handled("late")) == 1


def test_a_file_is_read_again_only_when_it_or_a_variable_in_it_has_changed(tmp_path, monkeypatch):
    shop = Shop(tmp_path)
    named = shop.topology.read_text().replace('name = "shop"', 'name = "${SHOP:-shop}"')
    shop.topology.write_text(named)
    first = project(shop.topology)
    monkeypatch.setenv("ANOTHER", "value")
    assert project(shop.topology) is first
    monkeypatch.setenv("SHOP", "branch")
    assert project(shop.topology).topology.name == "branch"


def test_a_file_with_mistakes_shows_all_of_them(tmp_path):
    (tmp_path / "topology.toml").write_text('name = "x"\n[queues.q]\nexchange = "none"\n')
    with pytest.raises(TopologyError, match="exchange"):
        TestSystem(tmp_path / "topology.toml")


def test_a_handler_that_is_not_there_is_an_error_before_anything_runs(tmp_path):
    (tmp_path / "topology.toml").write_text(
        'name = "x"\n[exchanges]\nw = { type = "direct" }\n'
        '[queues.q]\nexchange = "w"\nrouting_keys = [""]\nhandler = "nobody_wrote_it:h"\n'
    )
    with pytest.raises(UsageError, match="cannot import nobody_wrote_it"):
        TestSystem(tmp_path / "topology.toml")


def run_pytest(folder):
    # Loaded by its entry point. Other plugins are not loaded: their import takes seconds.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "feedbus"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": f"{folder}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


WRONG_TOPOLOGY_TESTS = """\
from feedbus.testing import TestSystem

def test_of_a_system():
    with TestSystem("topology.toml") as system:
        system.run()

def test_with_a_fixture(feedbus_system): ...

def test_with_a_bus(feedbus_bus): ...
"""


def test_pytest_shows_a_wrong_topology_without_the_source_of_feedbus(tmp_path):
    (tmp_path / "topology.toml").write_text('name = "x"\n[queues.q]\nexchange = "none"\n')
    (tmp_path / "test_wrong.py").write_text(WRONG_TOPOLOGY_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shown = run_pytest(tmp_path)
    assert shown.count("exchanges: expected a table of tables, got nothing") == 3, shown
    assert "feedbus/" not in shown, shown


def test_pytest_ini_names_a_topology_in_another_folder(tmp_path):
    files = {block.file: block.text for block in blocks(PAGE)}
    (tmp_path / "pytest.ini").write_text(files["pytest.ini"])
    (tmp_path / "shop.py").write_text(files["shop.py"])
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "topology.toml").write_text(files["topology.toml"])
    test = "def test_none(feedbus_system):\n    assert feedbus_system.run() == 0\n"
    (tmp_path / "test_shop.py").write_text(test)
    assert "1 passed" in run_pytest(tmp_path)
