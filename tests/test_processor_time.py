"""The report of the longest tests counts the time of their processes, ended or running."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]
TESTS = """
import subprocess, sys
import pytest

BURN = "import time\\nwhile time.process_time() < 0.7: pass\\nprint(flush=True); input()"


def burning():
    return subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


LEFT = []


def test_a_child_that_ended():
    burning().communicate(b"\\n")


def test_a_child_that_still_runs():
    LEFT.append(burning())
    LEFT[0].stdout.readline()


@pytest.fixture(scope="module")
def for_several():
    burning().communicate(b"\\n")


def test_nothing(for_several):
    LEFT[0].communicate(b"\\n")
"""


def test_tests_of_several_workers_are_listed_with_the_processor_time_of_their_processes(tmp_path):
    (tmp_path / "test_burning.py").write_text(TESTS)
    options = ("-p", "xdist", "-n", "1", "-p", "no:cacheprovider", "-p", "tests.processor_time")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, "--rootdir", tmp_path, tmp_path],
        cwd=PROJECT,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {test: seconds for seconds, test in re.findall(r"([\d.]+) s .*::(\w+)", done.stdout)}
    assert listed.keys() == {"test_a_child_that_ended", "test_a_child_that_still_runs"}
    assert all(float(seconds) >= 0.7 for seconds in listed.values())
    alone = re.findall(r"([\d.]+) s  shared by several tests: .*fixture for_several", done.stdout)
    assert [float(seconds) >= 0.7 for seconds in alone] == [True]
