"""A run that leaves files in the repository fails and names them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TESTS = """
from pathlib import Path

def test_that_writes_beside_itself():
    Path(__file__).with_name({name!r}).touch()
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")])
@pytest.mark.parametrize(("name", "code"), [("left é.db", 1), ("known.db", 0)])
def test_a_run_that_leaves_a_file_in_the_repository_fails(
    tmp_path: Path, workers: tuple[str, ...], name: str, code: int
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("known.db\n__pycache__\n")
    (tmp_path / "test_writing.py").write_text(TESTS.format(name=name))
    (tmp_path / "old.db").touch()
    options = (*workers, "-p", "no:cacheprovider", "-p", "tests.untracked_files")
    kept = {key: text for key, text in os.environ.items() if key != "PYTEST_XDIST_WORKER"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "--rootdir", tmp_path, tmp_path],
        cwd=PROJECT,
        env=kept | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert (name in done.stdout) == bool(code)
    assert "old.db" not in done.stdout
