"""How real processes start and restart, and what they inherit."""

import json
import signal
import sys

from tests.json_outputs import compare
from tests.projects import wait_until
from tests.supervised_handler import READY, SLOW, System

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
        note = "work is in the topology, but not applied: run `feedbus apply`"
        shown = system.status()
        assert shown["notes"] == [note]
        assert shown["consumers"]["work"]["state"] == "not applied"
        assert shown["processes"]["other"]["state"] == "stopped"
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
        note = "code has changed (small_handlers.py) since work started: run `feedbus restart`"
        assert note in system.project.feedbus("status").stdout
        assert note in system.project.feedbus("plan").stdout
        assert system.status()["consumers"]["work"]["changed_code"] == ["small_handlers.py"]
        system.project.publish("invalid")
        wait_until(system.project.dead)
        requeued = system.project.feedbus("dead", "requeue", "work", "--all")
        assert (requeued.stdout, note in requeued.stderr) == (
            "1 dead letter sent back to work\n",
            True,
        )
        assert not compare("status", system.status())[0]
        done = json.loads(system.project.feedbus("restart", "work", "--json").stdout)
        assert compare("restart", done) == (set(), set())
        (one,) = done["restarted"]
        assert (one["name"], one["ready"], done["error"]) == ("work", True, "")
        assert not system.project.feedbus("dead", "requeue", "work", "--all").stderr
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
            f"error: no consumer, queue or process named 'wrk'; expected one of {known};"
            " did you mean 'work'?\n"
        )


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
