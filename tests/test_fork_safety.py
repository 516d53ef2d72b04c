"""A handler that forks: the fork keeps no lock and no connection, and settles nothing."""

import os
import signal
import socket
import subprocess

import pytest

from feedbus.process.fork_safety import close_in_forks
from tests.projects import PATIENCE_SECONDS, Project

pytestmark = pytest.mark.processes

SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
IDLE = ("run", "work", "--idle-timeout", "1500ms")


@pytest.mark.parametrize("ending", ["", "raise ValueError('in the fork')", "sys.exit(3)"])
def test_a_fork_that_comes_back_from_the_handler_settles_nothing(tmp_path, ending):
    body = (
        "child = os.fork()\n"
        'note(f\'{n}{"c" if child == 0 else "p"}\')\n'
        "if child == 0:\n"
        f"    {ending or 'return'}\n"
        "os.waitpid(child, 0)"
    )
    project = Project.at(tmp_path, body)
    project.publish(1, 2)
    ended = project.feedbus(*IDLE)
    assert sorted(project.seen()) == ["1c", "1p", "2c", "2p"]
    assert ended.stderr.count("ended: idle") == 1
    assert project.dead() == []


def test_a_fork_that_outlives_its_consumer_keeps_no_slot_and_no_lock(tmp_path):
    body = (
        "child = os.fork()\n"
        "if child == 0:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "note(child)\n"
        "if n == 1:\n"
        "    os.kill(os.getpid(), 9)"
    )
    project = Project.at(tmp_path, body)
    project.publish(1)
    try:
        for lives in (1, 2):  # the second is given the message again at once
            with subprocess.Popen(project.command(*IDLE), **SILENT) as process:
                assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
            assert len(project.seen()) == lives
    finally:
        for child in project.seen():
            os.kill(int(child), signal.SIGKILL)


def test_a_fork_ends_by_sigterm_as_any_other_process(tmp_path):
    body = (
        "import multiprocessing\n"
        "context = multiprocessing.get_context('fork')\n"
        "begun = context.Event()\n"
        "child = context.Process(target=lambda: (begun.set(), time.sleep(60)))\n"
        "child.start()\n"
        "begun.wait()\n"
        "child.terminate()\n"
        "child.join()\n"
        "note(child.exitcode)"
    )
    project = Project.at(tmp_path, body)
    project.publish(1)
    project.feedbus(*IDLE)
    assert project.seen() == ["-15"]


def test_a_fork_holds_no_connection_open():
    ours, theirs = socket.socketpair()
    close_in_forks(ours)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        ours.close()
        theirs.settimeout(PATIENCE_SECONDS)
        assert theirs.recv(1) == b""
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        theirs.close()
