"""The process that prepares the store and the broker before the consumers start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus.new_project import create

pytestmark = pytest.mark.processes


def prepare(folder: Path) -> str:
    """Run the preparation of a project; return what it has printed."""
    command = [sys.executable, "-m", "feedbus.supervisor.preparation", "topology.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


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
