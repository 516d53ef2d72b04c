"""A disk that cannot be written to is reported before a write to it fails."""

import json
import os
from contextlib import ExitStack, contextmanager

import pytest

from feedbus import config
from feedbus.operations.unwritable_folders import unwritable_folders
from tests.projects import Project
from tests.required_servers import missing, only_if
from tests.small_disks import CannotMount, fill, small_disk

pytestmark = only_if(os.getuid() == 0, "only root can mount a small disk")


@contextmanager
def full_disk(folder):
    """Mount a disk of 1 MB on a folder and fill it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, 1))
        except CannotMount as error:
            missing(str(error))
        fill(folder)
        yield


@pytest.mark.parametrize("folder", ["log", "metrics", "run"])
def test_a_full_disk_is_named_and_is_well_again_when_there_is_room(tmp_path, folder):
    topology = config.load(Project.at(tmp_path, "pass").topology)
    topology.var.mkdir(mode=0o700, exist_ok=True)
    with full_disk(topology.var / folder):
        assert unwritable_folders(topology) == [f"{topology.var / folder}: No space left on device"]
        (topology.var / folder / "filler").unlink()
        assert unwritable_folders(topology) == []


def test_status_reports_a_full_disk(tmp_path):
    project = Project.at(tmp_path, "pass")
    with full_disk(tmp_path / "var" / "log"):
        status = json.loads(project.feedbus("status", "--json").stdout)
        assert status["disk"]["error"] == f"{tmp_path}/var/log: No space left on device"
