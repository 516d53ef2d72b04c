"""A disk that nothing can be written to is seen before something fails for it."""

import json
import os
import subprocess
from contextlib import contextmanager, suppress

import pytest

from feedbus import config
from feedbus.operations.disk_space import unwritable_folders
from tests.projects import Project
from tests.required_servers import missing, only_if

pytestmark = only_if(os.getuid() == 0, "only root can mount a small disk")


@contextmanager
def full_disk(folder):
    """Mount a disk of 1 MB on a folder and fill it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1M,mode=0700", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        missing("this system mounts no disk")
    try:
        filler = os.open(folder / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        with suppress(OSError):
            while True:
                os.write(filler, bytes(65_536))
        os.close(filler)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


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
