"""docs/handlers.md: each of its projects runs, with its tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "handlers.md").read_text()
FILES = dict(re.findall(r"```\w+\n# ([\w./-]+\.\w+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("project", sorted({name.partition("/")[0] for name in FILES}))
def test_a_project_of_the_page_and_its_tests_run_in_an_empty_folder(project, tmp_path):
    for name, text in FILES.items():
        if name.startswith(f"{project}/"):
            (tmp_path / Path(name).name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    tests = sum(text.count("\ndef test_") for name, text in FILES.items() if project in name)
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr
