"""A Celery application runs on the embedded broker, and killed workers lose none of its tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance.drive import eventually
from tests.projects import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]
CELERY = ("-m", "celery", "-A", "celery_app")
WORKER = (*CELERY, "worker", "-P", "solo", "--loglevel", "INFO", "-n", "w@test")
PUBLISH = """
import celery_app as tasks
for number in range(5):
    tasks.plain.delay(number)
    tasks.retried.apply_async((number,), countdown=0.2)
for number in range(2):
    tasks.die.apply_async((number,), priority=1)
"""
EXPECTED = sorted(
    [f"plain {number}" for number in range(10)]
    + [f"retried {number}" for number in range(5)]
    + [f"die {number}" for number in range(2)]
)


@pytest.fixture
def celery(tmp_path):
    """Start Python with the application at hand; end what still runs."""
    started = []

    def start(*arguments):
        with (tmp_path / "output").open("a") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=Path(__file__).parent,
                stdout=output,
                stderr=output,
                env=os.environ | {"CELERY_TEST_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)},
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_celery_application_loses_no_task_with_workers_that_are_killed(celery, tmp_path):
    done = tmp_path / "done"
    assert celery("-c", PUBLISH).wait(PATIENCE_SECONDS) == 0
    assert celery(*WORKER).wait(PATIENCE_SECONDS) == -9
    assert celery(*WORKER).wait(PATIENCE_SECONDS) == -9
    last = celery(*WORKER)
    eventually(lambda: done.exists() and sorted(set(done.read_text().splitlines())) == EXPECTED, 60)
    ping = celery(
        *["-m", "celery", "-A", "celery_app", "inspect", "ping", "-d", "w@test", "-t", "20"]
    )
    assert ping.wait(PATIENCE_SECONDS) == 0
    assert "pong" in (tmp_path / "output").read_text()
    last.terminate()
    assert last.wait(PATIENCE_SECONDS) == 0
