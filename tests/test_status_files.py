"""A process records its status in the files of its slot."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from feedbus.metrics import WaitingCounts, all_waiting, mark_waiting
from feedbus.process import slots, status_files


@dataclass(frozen=True)
class Folder:
    var: Path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "var")


def test_a_process_is_ready_from_its_report_until_it_releases_its_slot(folder: Folder) -> None:
    path = folder.var / "run" / "feed_3.1.ready"
    with slots.hold_slot(folder, "feed_3", 1):
        assert status_files.ready_since(path, os.getpid()) is None
        status_files.mark_ready()
        assert status_files.ready_since(path, os.getpid()) == pytest.approx(time.time(), abs=60)
        assert status_files.ready_since(path, os.getpid() + 1) is None
    assert status_files.ready_since(path, os.getpid()) is None


def test_the_reasons_and_the_waiting_records_of_a_process_are_read_by_its_name(
    folder: Folder,
) -> None:
    run = folder.var / "run"
    with slots.hold_slot(folder, "feed_3", 1):
        status_files.mark_holding("the broker is unavailable")
        mark_waiting(WaitingCounts(waiting=7, retrying=2))
        assert (
            status_files.hold_reason(run, "feed_3", 1, os.getpid()) == "the broker is unavailable"
        )
        assert status_files.hold_reasons(run) == {"feed_3": ["the broker is unavailable"]}
        assert all_waiting(run) == {"feed_3": (7, 2)}
        status_files.mark_holding("")
        mark_waiting(WaitingCounts())
        assert (status_files.hold_reasons(run), all_waiting(run)) == ({}, {})


def test_without_a_slot_a_process_records_nothing(folder: Folder) -> None:
    status_files.mark_ready()
    status_files.mark_holding("the broker is unavailable")
    mark_waiting(WaitingCounts(waiting=7, retrying=2))
    assert not folder.var.exists()


def test_an_ending_is_not_written_through_a_link(tmp_path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "exit").symlink_to(elsewhere)
    status_files.write_exit(tmp_path / "exit", 7, "exit code 1")
    assert not elsewhere.exists()
