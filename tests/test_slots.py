import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from feedbus.process import file_locks, process_setup, slots, status_files
from tests.projects import PATIENCE_SECONDS, is_alive, wait_until
from tests.slot_holders import HOLD, python


@dataclass(frozen=True)
class Folder:
    var: Path


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "var")


def in_slot(run):
    """Return the beginning of a command that runs in the first slot of `web`."""
    module = "feedbus.process.project_command"
    return [sys.executable, "-m", module, "--run", run, "--name", "web", "--slot", "1"]


SUPERVISED = """
import os, subprocess, sys, time
code = "import time; from feedbus.process.process_setup import *; follow_parent()"
code += "; print(1, flush=True); time.sleep(60)"
environment = os.environ | {"FEEDBUS_SUPERVISED": str(os.getpid())}
child = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_slot_is_held_by_one_process_and_the_other_learns_by_which(folder):
    with python(HOLD, folder.var) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(slots.SlotTaken, match=f"feed_3 already runs as process {holder.pid}"),
            slots.hold_slot(folder, "feed_3", 1, patience_seconds=0.1),
        ):
            pytest.fail("two hold one slot")


def test_another_slot_of_the_same_consumer_is_free(folder):
    with (
        python(HOLD, folder.var) as holder,
        slots.hold_slot(folder, "feed_3", 2, patience_seconds=0.1),
    ):
        assert holder.stdout.readline() == "held\n"


def test_a_slot_is_free_as_soon_as_its_holder_is_killed(folder):
    with python(HOLD, folder.var) as holder:
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGKILL)
        with slots.hold_slot(folder, "feed_3", 1, patience_seconds=PATIENCE_SECONDS):
            pass


def test_a_child_that_outlives_its_parent_does_not_hold_the_slot(folder):
    forking = HOLD.replace("    time.sleep(60)", "    import os; os.fork(); time.sleep(60)")
    with python(forking, folder.var, start_new_session=True) as holder:
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGKILL)
        try:
            with slots.hold_slot(folder, "feed_3", 1, patience_seconds=PATIENCE_SECONDS):
                pass
        finally:
            os.killpg(holder.pid, signal.SIGKILL)


def test_the_folder_of_locks_is_closed_to_others(folder):
    with slots.hold_slot(folder, "feed_3", 1):
        assert (folder.var / "run").stat().st_mode & 0o777 == 0o700
        assert (folder.var / "run" / "feed_3.1.lock").stat().st_mode & 0o777 == 0o600


def test_a_process_ends_when_its_supervisor_is_killed():
    with python(SUPERVISED) as supervisor:
        child = int(supervisor.stdout.readline())
        assert is_alive(child)
        os.kill(supervisor.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(child))


def test_a_process_whose_supervisor_was_gone_already_ends():
    code = "from feedbus.process.process_setup import *; follow_parent(); print('lives')"
    environment = os.environ | {process_setup.SUPERVISED: "1"}
    with python(code, env=environment) as orphan:
        output, trouble = orphan.communicate()
    assert (output, trouble, orphan.returncode) == ("", "the supervisor has ended\n", 1)


def test_a_process_started_by_hand_follows_nobody(monkeypatch):
    monkeypatch.delenv(process_setup.SUPERVISED, raising=False)
    assert not process_setup.follow_parent()


def test_an_allocation_beyond_the_memory_limit_is_a_memory_error():
    code = """
from feedbus.process import process_setup
process_setup.limit_memory(200 * 2**20)
try:
    bytearray(300 * 2**20)
except MemoryError:
    print("caught", len(bytearray(2**20)))
"""
    with python(code) as limited:
        output, _ = limited.communicate()
    assert output == "caught 1048576\n"


def test_a_command_in_a_slot_holds_its_slot_and_says_that_it_is_ready(folder):
    run = slots.run_folder(folder)
    code = (
        "import time; from feedbus.process import status_files; "
        "status_files.mark_ready(); time.sleep(60)"
    )
    process = subprocess.Popen([*in_slot(run), "--", sys.executable, "-c", code])
    try:
        wait_until(lambda: status_files.ready_since(run / "web.1.ready", process.pid) is not None)
        assert file_locks.lock_holder(run / "web.1.lock") == process.pid
    finally:
        process.kill()
        process.wait()
    assert file_locks.lock_holder(run / "web.1.lock") is None


def test_a_command_in_a_slot_has_its_memory_limited(folder):
    run = slots.run_folder(folder)
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"
    limited = [*in_slot(run), "--memory-limit", "123456789", "--", sys.executable, "-c", code]
    ended = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert ended.stdout == "123456789\n"


def test_a_command_that_does_not_exist_is_reported_without_a_traceback(folder):
    run = slots.run_folder(folder)
    command = [*in_slot(run), "--", "nope"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stderr == (
        "error: cannot start nope: No such file or directory; install the program, or correct"
        " `command` in [processes.web]\n"
    )
    assert ended.returncode == 1
