"""A handler is ended at its timeout by another process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker, config
from feedbus.process import watchdog
from feedbus.process.watchdog import Note, Watchdog, note_line
from feedbus.runner import CrashGuard
from feedbus.runner.crash_guard import DIED, HUNG
from tests.projects import PATIENCE_SECONDS, Project, status, wait_until

pytestmark = pytest.mark.processes

KEEPS_THE_INTERPRETER_LOCK = "import ctypes; ctypes.PyDLL(None).usleep(60_000_000)"
BACKTRACKS = 're = __import__("re"); re.match(r"(a+)+$", "a" * 40 + "b")'


@contextmanager
def up(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Run a project under its supervisor within the block."""
    with (project.folder / "output").open("w") as output:
        process = subprocess.Popen(project.command("up"), stdout=output, stderr=output)
        try:
            wait_until(lambda: state(project)["state"] == "running")
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_SECONDS)


def state(project: Project) -> dict[str, Any]:
    """Return what `feedbus status` shows of the consumer."""
    shown: dict[str, Any] = status(project.topology)["consumers"]["work"]
    return shown


def log(project: Project) -> str:
    """Return the consumer's log."""
    return (project.folder / "var/log/work.log").read_text()


def test_a_handler_that_keeps_the_interpreter_lock_is_ended(tmp_path: Path) -> None:
    project = Project.at(tmp_path, f"note(n)\n{BACKTRACKS}", 'handler_timeout = "500ms"')
    project.publish(1)
    done = project.feedbus("run", "work", code=-signal.SIGABRT)
    assert "event=hangs consumer=work " in done.stderr
    assert "small_handlers.py" in done.stderr
    assert project.seen() == ["1"]


def test_under_a_supervisor_a_message_that_always_hangs_is_given_up_and_the_next_one_handled(
    tmp_path: Path,
) -> None:
    body = f"note(n)\nif n == 1:\n    {KEEPS_THE_INTERPRETER_LOCK}"
    project = Project.at(tmp_path, body, 'handler_timeout = "100ms"')
    project.publish(1, 2)
    with up(project):
        wait_until(lambda: "2" in project.seen())
        shown = state(project)
    assert project.seen() == [*["1"] * 5, "2"]
    (letter,) = project.dead()
    assert letter["reason"] == (
        "while the message was handled, the process or its connection ended 5 times; the last"
        " time, the handler took longer than handler_timeout"
    )
    assert (shown["restarts"], shown["last_exit"]) == (5, "killed by SIGABRT")
    assert log(project).count("event=hangs consumer=work ") == 5
    assert "small_handlers.py" in log(project)


def test_a_consumer_whose_queue_is_deleted_holds_visibly_until_apply_declares_it(
    tmp_path: Path,
) -> None:
    project = Project.at(tmp_path, "note(n)")
    with up(project):
        with broker.connect(config.load(project.topology)) as connection:
            connection.default_channel.queue_delete("small.work")
        wait_until(lambda: state(project)["state"] == "holding")
        shown = state(project)
        assert "there is no queue small.work for work" in shown["processes"][0]["holding"]
        assert "work holds: broker: there is no queue" in project.feedbus("status").stdout
        project.feedbus("apply", "--yes")
        wait_until(lambda: state(project)["state"] == "running")
        project.publish(1)
        wait_until(lambda: project.seen() == ["1"])
        assert state(project)["restarts"] == 0


def test_only_a_second_look_ends_a_process_and_only_the_one_that_wrote_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "handler"
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(words) as process:
        overdue = Note(watchdog.now() - 1, process.pid, {}, ("one", "two"))
        line = note_line(overdue.until, overdue.pid, overdue.crashes, overdue.message_ids)
        path.write_bytes(line)
        assert Watchdog(path, os.getpid()).check() is None  # the file is from the previous process
        dog = Watchdog(path, process.pid)
        assert dog.check() is None
        assert process.poll() is None
        note = dog.check()
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGABRT
    assert note == overdue
    assert str(note) == "one and 1 more"
    assert cause_of_the_loss_of("one", path) == HUNG


def cause_of_the_loss_of(message_id: str, path: Path) -> str:
    """Return the cause of the crash, according to the next process."""
    with CrashGuard(path) as crash_guard:
        return crash_guard.reason_to_give_up(message_id, 0).partition("last time, ")[2]


def test_a_handler_that_ends_its_process_is_not_said_to_have_exceeded_its_time(
    tmp_path: Path,
) -> None:
    path = tmp_path / "handler"
    with contextlib.suppress(ZeroDivisionError), CrashGuard(path) as crash_guard:
        crash_guard.set_messages(["one"], -1.0)  # its deadline is over when the next process starts
        _ = 1 / 0
    assert cause_of_the_loss_of("one", path) == DIED


def test_under_a_supervisor_a_handler_that_exits_is_given_up_with_that_reason(
    tmp_path: Path,
) -> None:
    body = "note(n)\nif n == 1:\n    os._exit(7)"
    project = Project.at(tmp_path, body, 'handler_timeout = "50ms"')
    project.publish(1, 2)
    with up(project):
        wait_until(lambda: "2" in project.seen())
    (letter,) = project.dead()
    assert letter["reason"].endswith("the last time, the process ended (exit code 7)")
    assert len(re.findall(r'event=ended .*\bexit="exit code 7"', log(project))) == 5


def test_a_process_that_survives_sigabrt_is_killed_at_the_next_check(tmp_path: Path) -> None:
    path = tmp_path / "handler"
    code = "import signal; signal.signal(signal.SIGABRT, signal.SIG_IGN); print(1, flush=True);"
    words = [sys.executable, "-c", f"{code} signal.pause()"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        path.write_bytes(note_line(watchdog.now() - 1, process.pid, {}, ["one"]))
        dog = Watchdog(path, process.pid)
        notes = [dog.check() for _ in range(3)]
        assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert [note is not None for note in notes] == [False, True, False]


def test_what_a_handler_waits_for_its_turn_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "handler"

    def note() -> Note:
        with path.open("rb") as file:
            read = Note.read(file.fileno())
        assert read is not None
        return read

    with CrashGuard(path) as crash_guard:
        crash_guard.set_messages(["one", "two"], 5.0)
        before, began = note().until, watchdog.now()
        with crash_guard.paused(), crash_guard.paused():
            assert note() == Note(None, os.getpid(), {}, ("one", "two"))
            time.sleep(0.01)
        after, ended = note().until, watchdog.now()
        assert 0.01 <= after - before <= ended - began
        crash_guard.release()
        with crash_guard.paused():  # no handler runs
            assert path.read_bytes().startswith(b"\n")


def test_what_is_begun_beside_others_is_noted_with_them_at_the_cost_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "handler"
    written: list[int] = []
    pwrite = os.pwrite

    def count(descriptor: int, data: bytes, offset: int) -> int:
        written.append(len(data))
        return pwrite(descriptor, data, offset)

    with contextlib.suppress(ZeroDivisionError), CrashGuard(path) as crash_guard:
        crash_guard.set_messages([f"long-{number}" for number in range(1000)], 5.0)
        crash_guard.set_messages([f"m{number}" for number in range(1000)], 5.0)
        monkeypatch.setattr(os, "pwrite", count)
        crash_guard.add_messages(['"quoted"', "née"])
        crash_guard.set_time_limit(60.0)
        assert sum(written) < 100
        with path.open("rb") as file:
            note = Note.read(file.fileno())
        assert note is not None
        assert note.message_ids == (*(f"m{number}" for number in range(1000)), '"quoted"', "née")
        assert note.until is not None
        assert 50 < note.until - watchdog.now() <= 60
        _ = 1 / 0  # the process ends with all messages in the handler
    with CrashGuard(path) as crash_guard:
        assert crash_guard.is_suspected('"quoted"')
        assert crash_guard.is_suspected("m999")
        assert not crash_guard.is_suspected("long-999")


@pytest.mark.parametrize("line", [b"", b"\n", b"[1, 2", b'[{}, ["one"]]\n', b"[1, 2, 3, 4]\n"])
def test_a_file_that_is_torn_or_of_another_version_blames_and_ends_nobody(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "handler"
    path.write_bytes(line)
    assert Watchdog(path, os.getpid()).check() is None
    with CrashGuard(path) as crash_guard:
        assert not crash_guard.is_suspected("one")
