"""When a watcher counts as ready or holding, from its processes and their status files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus.process import slots, status_files
from feedbus.supervisor import watcher_state
from feedbus.supervisor.client import all_ready

READY, OTHER = 1, 2  # process ids; this process is the third one, which holds


@pytest.fixture
def watch(tmp_path: Path) -> Any:
    """Return a function that makes a watcher of two processes, of which this process holds."""
    folder = SimpleNamespace(var=tmp_path / "var")

    def make(*pids: int, gave_up: bool = False) -> Any:
        return SimpleNamespace(
            name="work",
            files=SimpleNamespace(folder=tmp_path / "var" / "run"),
            processes={pid: SimpleNamespace(pid=pid, wid=1) for pid in pids},
            ready_pids={READY},
            numprocesses=2,
            gave_up=gave_up,
            is_active=lambda: True,
        )

    with slots.hold_slot(folder, "work", 1):
        status_files.mark_holding("the store is unavailable")
        yield make


def test_a_process_that_holds_hides_no_process_that_is_missing_or_starting(watch):
    this = os.getpid()
    assert watcher_state.is_ready_or_holding(watch(READY, this))
    assert not watcher_state.is_ready_or_holding(watch(OTHER, this))
    assert not watcher_state.is_ready_or_holding(watch(this))


def test_a_watcher_that_gave_up_does_not_hold(watch):
    given_up = watch(READY, os.getpid(), gave_up=True)
    assert not watcher_state.is_ready_or_holding(given_up)
    assert watcher_state.hold_reasons(given_up) == []


def test_a_watcher_with_a_missing_process_is_not_ready():
    ready = {"ready": True}
    assert all_ready({"processes": [ready, ready], "wanted_processes": 2})
    assert not all_ready({"processes": [ready], "wanted_processes": 2})
    assert not all_ready({"processes": [ready, {"ready": False}], "wanted_processes": 2})
