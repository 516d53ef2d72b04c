"""How real processes end: by commands, by signals, together with their child processes."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.projects import PATIENCE_SECONDS, Project, wait_until
from tests.required_servers import only_if
from tests.supervised_handler import SLOW, System

# A program that does not end by SIGTERM.
STUBBORN = """
[processes.stubborn]
command = "bash -c 'trap : TERM; touch deaf; while true; do sleep 0.1; done'"
stop_timeout = "4s"
"""


def command_lines():
    """Return the command line of every process by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
    return found


def running(command):
    return [pid for pid, line in command_lines().items() if line == command]


def leaf():
    """Return a command that no other test runs."""
    leaf.number = getattr(leaf, "number", time.time_ns() % 10**9) + 1
    return f"sleep {leaf.number}"


def test_down_lets_every_handler_finish_and_shows_who_is_busy(tmp_path):
    system = System(tmp_path, SLOW, 'handler_timeout = "40s"')
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        with subprocess.Popen(
            system.project.command("down"),
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as down:
            waits = down.stderr.readline()
            assert re.match(
                r"waiting: work \(process \d+\) is still busy after \d+ s, and is killed in \d+ s",
                waits,
            )
            os.kill(down.pid, signal.SIGINT)
            wait_until(lambda: "still handles a message; if it does not end" in system.output)
            assert down.wait(PATIENCE_SECONDS) == 130
            assert "`feedbus down --now` kills them" in down.stderr.read()
        (tmp_path / "release").touch()
        assert system.project.feedbus("down").stdout in {
            "stopped\n",
            f"nothing runs in {tmp_path}/var\n",
        }
    assert system.project.seen() == ["begin1", "end1"]
    assert "event=killed" not in system.output


def test_an_interrupted_restart_reports_what_the_supervisor_continues(tmp_path):
    system = System(tmp_path, SLOW)
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        with subprocess.Popen(
            system.project.command("restart", "work"), stderr=subprocess.PIPE, text=True
        ) as restart:
            assert restart.stderr.readline().startswith("waiting: work (process ")
            os.kill(restart.pid, signal.SIGINT)
            text = "interrupted; restarted: none; the supervisor still restarts work\n"
            assert restart.stderr.read() == text
        assert restart.returncode == 130
        (tmp_path / "release").touch()
        wait_until(lambda: system.project.seen() == ["begin1", "end1"])


def test_what_is_killed_after_its_stop_time_is_named_and_no_message_is_blamed(tmp_path):
    system = System(tmp_path, SLOW, 'stop_timeout = "1s"')
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        system.project.feedbus("down")
    assert re.search(
        r'event=killed consumer=work pid=\d+ message="process \d+ did not end within \d+ s and',
        system.output,
    )
    assert (tmp_path / "var" / "run" / "work.1.handler").read_text().startswith("\n")
    assert "event=ended" not in system.output
    (tmp_path / "release").touch()
    system.project.feedbus("run", "work", "--max-messages", "1")
    assert system.project.seen() == ["begin1", "begin1", "end1"]


def test_the_log_speaks_of_messages_only_for_consumers(tmp_path):
    system = System(tmp_path, SLOW, 'stop_timeout = "4s"')
    with system.project.topology.open("a") as file:
        file.write(STUBBORN)
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        wait_until((tmp_path / "deaf").exists)
        (operations,) = system.pids("operations")
        os.kill(operations, signal.SIGSTOP)  # it does not end by SIGTERM now
        system.project.feedbus("down")
    lines = system.output.splitlines()
    for name in ("work", "stubborn", "operations"):
        busy, killed = (
            next(line for line in lines if f"event={event} consumer={name} " in line)
            for event in ("stopping", "killed")
        )
        assert ("still handles a message; if" in busy) == (name == "work")
        assert ("has not ended yet; if" in busy) == (name != "work")
        assert ("the broker delivers its messages again" in killed) == (name == "work")


def test_down_now_and_a_second_ctrl_c_wait_for_no_handler(tmp_path):
    system = System(tmp_path, SLOW)
    for attempt in (1, 2):
        with system.up() as supervisor:
            if attempt == 1:
                system.project.publish(1)
            wait_until(lambda attempt=attempt: system.project.seen().count("begin1") == attempt)
            if attempt == 1:
                assert system.project.feedbus("down", "--now").stdout == "stopped\n"
            else:
                supervisor.send_signal(signal.SIGINT)
                wait_until(lambda: "event=stopping consumer=supervisor" in system.output)
                supervisor.send_signal(signal.SIGINT)
            assert supervisor.wait(PATIENCE_SECONDS) == 0
    assert "end1" not in system.project.seen()


def test_the_whole_group_of_a_process_ends_with_it(tmp_path):
    apart, beside = leaf(), leaf()
    script = f"setsid {apart} & {beside} & exec sleep 600"
    system = System(tmp_path, processes={"group": f'bash -c "{script}"'})
    with system.up(ready=False) as supervisor:
        wait_until(lambda: running(apart) and running(beside))
        (leader,) = system.pids("group")
        os.kill(leader, signal.SIGKILL)
        first = running(beside)
        wait_until(lambda: running(beside) and not set(first) & set(running(beside)))
        assert len(running(beside)) == 1
        system.project.feedbus("down")
        assert supervisor.wait(PATIENCE_SECONDS) == 0
        assert (running(apart), running(beside)) == ([], [])
    assert "Traceback" not in system.output


def test_what_a_killed_supervisor_left_is_ended_by_the_next(tmp_path):
    stray = leaf()
    system = System(tmp_path, processes={"group": f'bash -c "{stray} & exec sleep 600"'})
    with system.up(ready=False) as supervisor:
        wait_until(lambda: running(stray))
        supervisor.kill()
        supervisor.wait()
    assert system.project.feedbus("down").stdout == "stopped\n"
    assert running(stray) == []


@only_if(os.getuid() == 0, "only root can make a namespace of processes")
def test_as_process_1_it_reaps_orphans_and_stops_while_it_starts(tmp_path):
    orphan = leaf()
    script = "(bash -c 'sleep 0.2' &) ; exec " + orphan
    system = System(tmp_path, processes={"orphans": f'bash -c "{script}"'})
    prefix = ["unshare", "--pid", "--fork", "--mount-proc"]
    for wait in ("supervisor.lock", "circus.sock", None):
        with system.up(prefix=prefix, ready=False):
            if wait is None:
                wait_until(lambda: running(orphan))
            else:
                wait_until((tmp_path / "var" / "run" / wait).exists)
            (one,) = [pid for pid in command_lines() if first_in_namespace(pid, tmp_path)]
            if wait is None:
                wait_until(lambda one=one: has_reaped_orphans(one))
            os.kill(one, signal.SIGTERM)
            wait_until(lambda one=one: one not in command_lines())
            (tmp_path / "var" / "run" / "circus.sock").unlink(missing_ok=True)
            (tmp_path / "var" / "run" / "supervisor.lock").unlink(missing_ok=True)
        assert "Traceback" not in system.output
        assert "stopped" in system.output.splitlines()[-1]
    assert re.search(r"^work +\S+ INFO event=", system.output, re.MULTILINE)  # --logs by default
    assert running(orphan) == []


def has_reaped_orphans(process_1):
    """Whether the script's orphan has ended, and process 1 has no zombie."""
    lines = command_lines()  # that of a zombie is empty
    children = Path(f"/proc/{process_1}/task/{process_1}/children").read_text().split()
    left = [lines[int(pid)] for pid in children if int(pid) in lines]
    return not any(line == "" or line.endswith("sleep 0.2") for line in left)


def first_in_namespace(pid, folder):
    """Whether a process is process 1 of its namespace and works in a folder."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        here = Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False
    return here and re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE) is not None


# Python itself needs some milliseconds before it runs any line of feedbus.
BEGUN = "import feedbus.__main__ as one; print('begun', flush=True); one.main()"


@pytest.mark.parametrize("words", [("run", "work"), ("up",), ("up", "--detach"), ("status",)])
def test_ctrl_c_at_any_moment_ends_quietly(tmp_path, words):
    project = Project.at(tmp_path, "note(n)")
    command = project.command(*words)
    command[1:3] = ["-c", BEGUN]
    for milliseconds in (0, 40, 90, 160, 250, 400, 600):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout.readline() == "begun\n"
            time.sleep(milliseconds / 1000)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in output, output
        assert "KeyboardInterrupt" not in output, output
        assert process.returncode in {0, 130, -signal.SIGINT}, output
        if words[0] == "up":
            project.feedbus("down")
