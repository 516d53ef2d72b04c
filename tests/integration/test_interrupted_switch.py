"""A start after an interrupted change of a ring whose old queues are full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import feedbus
from feedbus.generations.switch import EXIT_AT, EXIT_CODE
from tests.projects import (
    PATIENCE_SECONDS,
    environment_without_options,
    run_feedbus,
    wait_until,
)

pytestmark = pytest.mark.processes

TOPOLOGY = """\
name = "full"
[exchanges]
orders = {{ type = "x-consistent-hash" }}
[queues.work]
exchange = "orders"
shards = {shards}
handler = "app_of_switch:work"
max_length = 5
overflow = "reject-publish"
[operations]
enabled = false
"""
APP = """\
from pathlib import Path
from feedbus import handler

@handler
def work(record: dict) -> None:
    with Path(__file__).with_name("seen").open("a") as seen:
        seen.write(f"{record['n']}\\n")
"""


def publish(file: Path, *numbers: int) -> None:
    with feedbus.connect(file) as bus:
        for number in numbers:
            bus.publish("orders", {"n": number}, key="a")


def test_the_consumers_start_although_held_messages_wait_for_a_full_queue(tmp_path: Path) -> None:
    environment = environment_without_options()
    file, seen = tmp_path / "topology.toml", tmp_path / "seen"
    (tmp_path / "app_of_switch.py").write_text(APP)
    file.write_text(TOPOLOGY.format(shards=1))
    run_feedbus(tmp_path, environment, "apply")
    publish(file, 1, 2, 3, 4, 5)
    file.write_text(TOPOLOGY.format(shards=2))
    ending = environment | {EXIT_AT: "disconnected"}
    run_feedbus(tmp_path, ending, "apply", code=EXIT_CODE)
    publish(file, 6, 7, 8)  # they are held
    command = [sys.executable, "-m", "feedbus", "up"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as up:
        try:
            wait_until(lambda: seen.exists() and len(seen.read_text().split()) >= 8)
        finally:
            up.terminate()
            _, errors = up.communicate(timeout=PATIENCE_SECONDS)
    assert seen.read_text().split() == [str(number) for number in range(1, 9)]
    assert b"event=held_messages_wait consumer=supervisor exchange=orders " in errors
    assert up.returncode == 0
