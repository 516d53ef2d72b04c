"""README.md: its first project runs in an empty folder, with its test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from feedbus import config
from tests.systems import System

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", PAGE, re.DOTALL))


def test_the_first_project_publishes_and_its_tests_pass(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for words in (["-m", "feedbus", "check"], ["order.py"], ["-m", "pytest", "-q", "-W", "error"]):
        subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, check=True)
    system = System(config.load(tmp_path / "topology.toml"), store=None)
    assert sum(system.ready().values()) == 2


def test_the_topology_of_the_application_is_shown_as_it_is():
    assert f"```toml\n{(ROOT / 'topology.toml').read_text()}```" in PAGE
