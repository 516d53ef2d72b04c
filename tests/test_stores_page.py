"""docs/stores.md: its SQLAlchemy project runs in an empty folder, with its test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "stores.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\w+\.\w+)\n(.*?)```", PAGE, re.DOTALL))


def test_the_project_on_sqlalchemy_is_correct_and_its_test_passes(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for words in (["feedbus", "check"], ["pytest", "-q", "-W", "error"]):
        command = [sys.executable, "-m", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=60)
    assert not (tmp_path / "shop.db").exists()
