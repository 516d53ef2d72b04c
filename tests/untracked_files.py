"""Let a run fail that leaves files in the repository: tests write into folders of their own.

conftest.py registers this module as a plugin of pytest. Files that .gitignore names do not count.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

BEFORE = pytest.StashKey[set[str]]()
LEFT = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if is_controller():
        session.config.stash[BEFORE] = untracked(session.config.rootpath)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if BEFORE not in session.config.stash:
        return
    left = untracked(session.config.rootpath) - session.config.stash[BEFORE]
    session.config.stash[LEFT] = sorted(left)
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left = config.stash.get(LEFT, [])
    if left:
        terminalreporter.section("error: this run has left files in the repository", red=True)
        for path in left:
            terminalreporter.line(path)


def is_controller() -> bool:
    """Whether this process is the only one of the run, or starts the others."""
    return "PYTEST_XDIST_WORKER" not in os.environ


def untracked(folder: Path) -> set[str]:
    """Return the files of a repository that git does not know; none where there is no git."""
    command = ["git", "ls-files", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        return set()
    return set(os.fsdecode(done.stdout).split("\0")) - {""}
