"""After Ctrl-C, a command reports what it has done and how to continue."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

import feedbus.apply
import feedbus.cli.balance
from feedbus.cli import main
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import BrokerOutage
from feedbus.process import interrupts
from tests.projects import Project, status, wait_until

IDLE = ("run", "work", "--idle-timeout", "1500ms")
AT_ONCE = 5_000  # how many messages `feedbus publish --file` publishes together


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the signal handlers of the test run."""
    monkeypatch.setattr(interrupts, "raise_interrupts", lambda *_: None)


def interrupt(*_: object, **__: object) -> NoReturn:
    raise KeyboardInterrupt


def lose_broker(*_: object, **__: object) -> NoReturn:
    msg = "broker: Broken pipe"
    raise BrokerOutage(msg)


def invoke(project: Project, *words: str) -> Result:
    return CliRunner().invoke(main, ["--topology", str(project.topology), *words])


def test_an_interrupted_apply_says_that_the_next_one_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.at(tmp_path, "note(n)")
    with monkeypatch.context() as patched:
        patched.setattr(feedbus.apply, "apply", interrupt)
        stopped = invoke(project, "apply")
        assert stopped.exit_code == 130
        continues = (
            "some changes may be made already; run `feedbus apply` again: it continues where it"
            " stopped\n"
        )
        assert stopped.stderr == f"interrupted; {continues}"
        patched.setattr(feedbus.apply, "apply", lose_broker)
        lost = invoke(project, "apply")
        assert (lost.exit_code, lost.stderr) == (1, f"error: broker: Broken pipe; {continues}")
        patched.setattr(feedbus.apply, "exclusive", interrupt)
        assert invoke(project, "apply").stderr == "interrupted; nothing was changed\n"
    assert project.feedbus("apply").returncode == 0


def answer(project: Project, typed: bytes) -> tuple[int, str]:
    """Run `feedbus apply` on a terminal and answer its question; return exit code and stderr."""
    keyboard, terminal = pty.openpty()
    command = project.command("apply")
    with subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        os.write(keyboard, typed)
        _, reported = process.communicate()
    os.close(keyboard)
    os.close(terminal)
    return process.returncode, reported.strip()


def test_an_apply_that_is_answered_with_no_says_that_nothing_was_changed(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    assert answer(project, b"n\n") == (1, "nothing was changed")
    assert answer(project, b"\x04") == (1, "nothing was changed")  # Ctrl-D
    assert project.feedbus("plan", "--check", code=1)
    assert answer(project, b"y\n") == (0, "")


def test_logs_that_are_followed_end_cleanly_at_ctrl_c(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    folder = tmp_path / "var" / "log"
    folder.mkdir(parents=True)
    (folder / "work.log").write_text("printed\n")
    command = project.command("logs", "-f", "work")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"printed\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 0


def test_an_interrupted_requeue_reports_how_many_dead_letters_it_has_sent_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.at(tmp_path, "raise Reject('no')")
    for number in range(3):
        project.publish(number)
    project.feedbus(*IDLE)
    send, sent = Requeue.send, list[Any]()

    def send_two(self: Requeue, letter: Any) -> None:
        if len(sent) == 2:
            self.__exit__()
            raise KeyboardInterrupt
        sent.append(letter)
        send(self, letter)

    with monkeypatch.context() as patched:
        patched.setattr(Requeue, "send", send_two)
        stopped = invoke(project, "dead", "requeue", "work", "--all")
        assert stopped.exit_code == 130
        assert stopped.stderr == (
            "interrupted; 2 dead letters were sent back to work; run the command again for the"
            " others\n"
        )
    assert len(project.feedbus("dead", "list").stdout.splitlines()) == 1
    again = invoke(project, "dead", "requeue", "work", "--all")
    assert again.stdout == "1 dead letter sent back to work\n"


def test_an_interrupted_publish_reports_the_messages_that_are_confirmed(tmp_path: Path) -> None:
    project = Project.at(tmp_path, "note(n)")
    command = project.command("publish", "work", "--file", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"n": 1}\n' * AT_ONCE)
        process.stdin.flush()
        wait_until(lambda: depth(project) == AT_ONCE)
        process.stdin.write(b'{"n": 2}\n')  # it reads this line after the confirms
        process.stdin.flush()
        unread = process.stdin.fileno()
        wait_until(lambda: not any(fcntl.ioctl(unread, termios.FIONREAD, bytes(4))))
        process.send_signal(signal.SIGINT)
        _, reported = process.communicate()
    assert process.returncode == 130
    assert reported.decode() == (
        "interrupted; the broker has confirmed the first 5,000 messages of <stdin>, and some later"
        " ones may be published, too; to continue, publish the lines that follow\n"
    )


def depth(project: Project) -> int:
    ready: int | None = status(project.topology)["consumers"]["work"]["ready"]
    return ready or 0


def test_an_interrupted_balance_says_that_the_weights_are_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project.at(tmp_path, "note(n)")
    text = project.topology.read_text()
    text = text.replace('type = "direct"', 'type = "x-consistent-hash"')
    project.topology.write_text(text.replace('routing_keys = [""]', "shards = 2"))
    monkeypatch.setattr(feedbus.cli.balance, "find", interrupt)
    stopped = invoke(project, "balance", "work", "--keys", "1..9", "--write")
    assert stopped.exit_code == 130
    assert stopped.stderr == ("interrupted; the weights were not changed; run the command again\n")
