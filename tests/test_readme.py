"""README.md: its program publishes; tests/test_pages.py runs the tests of the project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from feedbus import config
from tests.systems import System

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", PAGE, re.DOTALL))


def test_the_program_of_the_first_project_publishes(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    subprocess.run([sys.executable, "order.py"], cwd=tmp_path, check=True)
    system = System(config.load(tmp_path / "topology.toml"), store=None)
    assert sum(system.ready().values()) == 2


def test_the_topology_of_the_application_is_shown_as_it_is():
    page = (ROOT / "docs/reference-application.md").read_text()
    assert f"```toml\n{(ROOT / 'topology.toml').read_text()}```" in page
