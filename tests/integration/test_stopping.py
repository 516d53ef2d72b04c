"""How processes end, as real ones: by commands, by signals, with what they have started."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.projects import PATIENCE_SECONDS, Project, circusctl, wait_until
from tests.required_servers import only_if

SLOW = """
note(f"begin{n}")
while not os.path.exists(os.path.join(os.path.dirname(__file__), "release")):
    time.sleep(0.02)
note(f"end{n}")
"""
PROCESS = '[processes.{name}]\ncommand = {command}\nstop_timeout = "1s"\n'
READY = "from feedbus.process import slot_status; slot_status.mark_ready()"


class System:
    """A small project under a supervisor."""

    def __init__(self, folder, body="note(n)", options="", processes=None):
        self.project = Project.at(folder, body, options)
        with self.project.topology.open("a") as file:
            for name, command in (processes or {}).items():
                file.write(PROCESS.format(name=name, command=json.dumps(command)))

    @property
    def folder(self):
        return self.project.folder

    @contextmanager
    def up(self, prefix=(), ready=True):
        """Run it in the foreground for as long as the block does."""
        (self.folder / "release").unlink(missing_ok=True)
        with (self.folder / "output").open("w") as output:
            process = subprocess.Popen(
                [*prefix, *self.project.command("up")],
                cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            if ready:
                wait_until(lambda: "processes are ready" in self.output)
            yield process
        finally:
            (self.folder / "release").touch()
            process.terminate()
            process.wait(PATIENCE_SECONDS)

    @property
    def output(self):
        return (self.folder / "output").read_text()

    def circusctl(self, *words):
        done = circusctl(self.folder, os.environ, *words)
        return (done.stdout + done.stderr).strip()

    def status(self):
        return json.loads(self.project.feedbus("status", "--json").stdout)

    def pids(self, name):
        status = self.status()
        one = (status["consumers"] | status["processes"])[name]
        return [process["pid"] for process in one["processes"]]


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
                r"waiting: work \(process \d+\) is still busy after \d s, and is killed in 4", waits
            )
            os.kill(down.pid, signal.SIGINT)
            wait_until(lambda: "still handles a message; if it does not end" in system.output)
            assert down.wait(PATIENCE_SECONDS) == 130
            assert "`feedbus down --now` kills what is left" in down.stderr.read()
        (tmp_path / "release").touch()
        assert system.project.feedbus("down").stdout in {
            "stopped\n",
            f"nothing runs in {tmp_path}/var\n",
        }
    assert system.project.seen() == ["begin1", "end1"]
    assert "event=killed" not in system.output


def test_what_is_killed_after_its_stop_time_is_named_and_no_message_is_blamed(tmp_path):
    system = System(tmp_path, SLOW, 'stop_timeout = "1s"')
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        system.project.feedbus("down")
    assert re.search(
        r'event=killed consumer=work pid=\d+ message="process \d+ did not end within 1 s and',
        system.output,
    )
    assert (tmp_path / "var" / "run" / "work.1.hand").read_text().startswith("\n")
    assert "event=ended" not in system.output
    (tmp_path / "release").touch()
    system.project.feedbus("run", "work", "--max-messages", "1")
    assert system.project.seen() == ["begin1", "begin1", "end1"]


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


def test_a_consumer_that_finishes_a_handler_blocks_no_other_command(tmp_path):
    ready = f"python -c '{READY}; import time; time.sleep(600)'"
    system = System(tmp_path, SLOW, processes={"other": ready})
    with system.up():
        system.project.publish(1)
        wait_until(lambda: "begin1" in system.project.seen())
        assert system.circusctl("stop", "work") == "ok"
        (before,) = system.pids("other")
        assert system.circusctl("restart", "other", "--waiting") == "ok"
        assert system.pids("other") not in ([], [before])
        assert system.status()["consumers"]["work"]["state"] == "stopping"


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


SHOW = """
import json, os, signal
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
found = dict(line.split(":", 1) for line in lines if line.startswith("Sig"))
found["descriptors"] = {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                        if os.path.exists(f"/proc/self/fd/{n}")}
found["leads"] = os.getpgid(0) == os.getpid()
Path("shown.new").write_text(json.dumps(found))
os.rename("shown.new", "shown")
signal.pause()
"""


def test_processes_get_default_signals_and_only_three_descriptors_and_nohup_is_respected(tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    shell = f"bash -c 'exec {sys.executable} show.py'"
    system = System(tmp_path, processes={"show": shell})
    with system.up(prefix=["nohup"], ready=False) as supervisor:
        wait_until((tmp_path / "shown").exists)
        shown = json.loads((tmp_path / "shown").read_text())
        ignored = int(shown["SigIgn"], 16)
        ours = {signal.SIGPIPE, signal.SIGXFSZ}  # Python's own, at its start
        # The C library keeps two more for itself, which no program can set: see signal(7).
        assert {one for one in signal.valid_signals() if ignored >> one - 1 & 1} <= ours
        assert int(shown["SigBlk"], 16) == 0
        assert shown["leads"]
        others = {number for number in shown["descriptors"] if int(number) > 2}
        lock = {n for n in others if shown["descriptors"][n].endswith("show.1.lock")}
        assert len(lock) == 1
        assert others == lock
        assert shown["descriptors"]["0"] == "/dev/null"
        supervisor.send_signal(signal.SIGHUP)
        assert system.circusctl("status", "work") == "active"


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
        project.feedbus("down")


def test_restart_without_a_name_restarts_and_a_removed_watcher_is_seen_and_brought_back(tmp_path):
    ready = f"python -c '{READY}; import time; time.sleep(600)'"
    system = System(tmp_path, processes={"other": ready})
    with system.up():
        before = system.pids("work") + system.pids("other")
        assert system.circusctl("restart", "--waiting") == "ok"
        after = system.pids("work") + system.pids("other")
        assert len(after) == 2
        assert not set(before) & set(after)
        assert system.circusctl("rm", "work", "--waiting") == "ok"
        assert system.circusctl("stop", "other", "--waiting") == "ok"
        planned = system.project.feedbus("plan", "--check", code=1).stdout
        assert "+ consumer  work" in planned
        assert "~ process   other  it was stopped and is started" in planned
        system.project.feedbus("apply", "--yes")
        wait_until(lambda: system.pids("work") and system.pids("other"))
        assert system.project.feedbus("plan", "--check").stdout == "nothing to change\n"
        refused = system.circusctl("set", "work", "cmd", "true")
        assert "cmd cannot be set here: change topology.toml, then run `feedbus apply`" in refused
        assert system.status()["consumers"]["work"]["restarts"] == 0


def test_restart_runs_the_code_as_it_is_now_and_status_and_plan_say_that_it_has_changed(tmp_path):
    system = System(tmp_path, "note('old')")
    handlers = tmp_path / "small_handlers.py"
    nothing = system.project.feedbus("restart", code=1).stderr
    assert nothing == f"error: nothing runs in {tmp_path}/var; start it with `feedbus up`\n"
    with system.up():
        (before,) = system.pids("work")
        assert system.status()["notes"] == []
        text = handlers.read_text()
        handlers.write_text(text.replace("note('old')", "note('new')"))
        note = "code has changed (small_handlers.py) since work started: `feedbus restart`"
        assert note in system.project.feedbus("status").stdout
        assert note in system.project.feedbus("plan").stdout
        assert system.status()["consumers"]["work"]["changed_code"] == ["small_handlers.py"]
        done = json.loads(system.project.feedbus("restart", "work", "--json").stdout)
        (one,) = done["restarted"]
        assert (one["name"], one["ready"], done["error"]) == ("work", True, "")
        assert one["pids"] == system.pids("work") != [before]
        system.project.publish(1)
        wait_until(lambda: system.project.seen() == ["new"])
        handlers.write_text("syntax error")
        assert "syntax" in system.project.feedbus("restart", code=1).stderr
        assert system.pids("work") == one["pids"]
        handlers.write_text(text)
        wrong = system.project.feedbus("restart", "wrk", code=1).stderr
        known = "work, operations"
        assert wrong == (
            f"error: no consumer, queue or process named 'wrk'; expected one of {known}\n"
        )
