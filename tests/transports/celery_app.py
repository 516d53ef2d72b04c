"""A Celery application on the embedded broker, for the test that kills its workers."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

FOLDER = Path(os.environ["CELERY_TEST_FOLDER"])

app = Celery("celery_app")
app.conf.update(
    broker_url=f"sqlite:///{FOLDER}/broker.db",
    broker_transport="feedbus.transports.sqlite:Transport",
    task_acks_late=True,
    task_ignore_result=True,
    task_queue_max_priority=9,
    worker_prefetch_multiplier=2,
)


def note(line):
    with (FOLDER / "done").open("a") as file:
        file.write(line + "\n")


@app.task
def die(number):
    """Kill the worker at the first attempt, be done at the second."""
    flag = FOLDER / f"died.{number}"
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), 9)
    note(f"die {number}")


@app.task(bind=True)
def retried(self, number):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    note(f"retried {number}")


@app.task
def plain(number):
    note(f"plain {number}")
    if number < 5:
        plain.apply_async((number + 5,), priority=9)
