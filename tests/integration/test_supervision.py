"""Real processes under a real circus; the broker and the store are files."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus import config
from feedbus.supervisor import client
from tests.projects import is_alive, wait_until
from tests.supervised_project import ALL, CIRCUSD, HANDLE, TOPOLOGY, System

CRASHING = """
[processes.broken]
command = "python -c 'import sys; sys.exit(\\"no such thing\\")'"
start_retries = 3
"""


@pytest.fixture
def system(tmp_path):
    system = System(tmp_path)
    yield system
    system.feedbus("down")
    assert system.processes() == []


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A system that several tests use and leave unchanged."""
    system = System(tmp_path_factory.mktemp("running"))
    with system.up():
        system.wait_for_output("all 5 processes are ready")
        yield system
    assert "event=stopped consumer=supervisor" in system.output.splitlines()[-1]
    assert system.processes() == []


def test_up_says_of_every_consumer_and_process_when_it_is_ready(running):
    assert set(re.findall(r"event=ready consumer=(\S+) pid=\d+", running.output)) == ALL


def test_status_shows_every_consumer_with_its_processes_and_depths(running):
    found = json.loads(running.feedbus("status", "--json").stdout)
    assert set(found["consumers"]) | set(found["processes"]) == ALL
    assert found["broker"]["reachable"]
    assert found["store"]["reachable"]
    mail = found["consumers"]["mail"]
    assert (mail["state"], mail["ready"], mail["dead"]) == ("running", 0, 0)
    assert is_alive(mail["processes"][0]["pid"])


def test_a_request_leaves_the_working_directory_of_its_process_as_it_was(running):
    before = Path.cwd()
    assert set(client.state(config.load(running.root / "topology.toml"))["watchers"]) == ALL
    assert Path.cwd() == before


def test_status_is_a_table_for_people(running):
    lines = running.feedbus("status").stdout.splitlines()
    assert lines[0].split()[:2] == ["STATE", "PIDS"]
    assert any(line.startswith("feed_0") and "running" in line for line in lines)


def test_the_sockets_are_closed_to_others_and_there_is_no_port(running):
    run = running.root / "var" / "run"
    assert run.stat().st_mode & 0o777 == 0o700
    for name in ("circus.sock", "pubsub.sock"):
        assert (run / name).stat().st_mode & 0o777 == 0o600


def test_a_killed_consumer_is_back_and_the_others_never_left(running):
    before = {name: running.pids(name) for name in ALL}
    (victim,) = before["feed_1"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: running.pids("feed_1") not in ([], [victim]))
    running.wait_for_running(["feed_1"])
    after = {name: running.pids(name) for name in ALL}
    assert {name for name in ALL if before[name] != after[name]} == {"feed_1"}
    assert running.status()["feed_1"]["restarts"] == 1
    assert re.search(r'ended consumer=feed_1 pid=\d+ exit="killed by SIGKILL"', running.output)


def test_circusctl_sees_stops_and_starts_what_the_topology_names(running):
    assert running.circusctl("status").splitlines() == [f"{name}: active" for name in sorted(ALL)]
    running.circusctl("stop", "feed_0")
    wait_until(lambda: running.circusctl("status", "feed_0") == "stopped")
    assert running.pids("feed_0") == []
    running.circusctl("start", "feed_0")
    running.wait_for_running(["feed_0"])


def test_circusctl_incr_gives_a_queue_another_process_in_a_slot_of_its_own(running):
    running.circusctl("incr", "mail", "--waiting")
    running.wait_for_running(["mail"])
    assert len(running.pids("mail")) == 2
    running.circusctl("decr", "mail", "--waiting")
    wait_until(lambda: len(running.pids("mail")) == 1)


def test_circusctl_incr_leaves_a_shard_with_its_one_process(running):
    running.circusctl("incr", "feed_0")
    assert len(running.pids("feed_0")) == 1


def test_circusctl_reload_never_runs_a_slot_twice(running):
    (before,) = running.pids("feed_0")
    running.circusctl("reload", "feed_0", "--waiting")
    running.wait_for_running(["feed_0"])
    (after,) = running.pids("feed_0")
    assert after != before
    assert "already runs" not in (running.root / "var" / "log" / "feed_0.log").read_text()


@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_a_second_up_in_the_same_folder_is_refused(running, options):
    refused = running.feedbus("up", *options)
    assert refused.returncode == 1
    assert re.match(
        r"error: process \d+ supervises .* already; apply a changed topology", refused.stderr
    )


def test_a_consumer_run_by_hand_beside_its_supervised_one_is_refused(running):
    refused = running.feedbus("run", "feed_0")
    assert refused.returncode == 1
    assert "feed_0 already runs as process" in refused.stderr
    _, _, command = refused.stderr.partition("`circusctl ")
    stop, _, _ = command.partition("`")
    circusctl = Path(sys.executable).with_name("circusctl")
    subprocess.run([circusctl, *stop.split()], cwd=running.root, check=True)
    wait_until(lambda: running.circusctl("status", "feed_0") == "stopped")
    running.circusctl("start", "feed_0")
    running.wait_for_running(["feed_0"])
    assert "Traceback" not in refused.stderr


def test_a_killed_supervisor_leaves_no_process_behind_and_can_be_followed_at_once(system):
    with system.up() as supervisor:
        system.wait_for_output("all 5 processes are ready")
        orphans = set(system.processes()) - {supervisor.pid}
        assert len(orphans) == 5
        supervisor.kill()
        supervisor.wait()
        with system.up():
            system.wait_for_output("all 5 processes are ready")
            wait_until(lambda: not any(map(is_alive, orphans)))
            assert len(system.processes()) == 6


def test_a_process_that_keeps_failing_is_given_up_with_the_reason_and_its_log(system):
    with (system.root / "topology.toml").open("a") as topology:
        topology.write(CRASHING)
    failed = system.feedbus("up", "--detach")
    assert failed.returncode == 1
    log = system.root / "var" / "log" / "broken.log"
    why = "it has failed 3 times in a row right after its start, the last time with exit code 1"
    assert f"broken is not restarted any more, because {why}; its log is {log}" in failed.stderr
    assert log.read_text() == "no such thing\n" * 3
    reported = (system.root / "var" / "log" / "supervisor.log").read_text()
    assert re.search(
        r'event=gave_up consumer=broken message="the process is not restarted any more, because '
        rf"{why}; read its log",
        reported,
    )
    assert system.status()["broken"]["state"] == "gave up"
    assert system.status()["clock"]["state"] == "running"


def test_the_state_of_a_process_that_waits_for_its_next_start_is_restarting(system):
    with (system.root / "topology.toml").open("a") as topology:
        topology.write('[processes.short]\ncommand = "true"\n')
    with system.up():
        wait_until(lambda: system.status().get("short", {}).get("state") == "restarting")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_midst_of_starting_stops_everything_cleanly(system, number):
    with system.up() as supervisor:
        wait_until((system.root / "var" / "run" / "circus.sock").exists)
        wait_until(lambda: len(system.processes()) > 1)
        supervisor.send_signal(number)
        assert supervisor.wait() == 0
    assert "event=stopped consumer=supervisor" in system.output.splitlines()[-1]
    assert system.processes() == []


def test_circusd_starts_the_very_same_watchers_as_up(system):
    with system.up():
        system.wait_for_output("all 5 processes are ready")
        ours = system.options(ALL)
        listed = system.circusctl("list")
    with system.circusd():
        wait_until(lambda: system.output.count("event=ready ") == len(ALL), lambda: system.output)
        theirs = system.options(ALL)
        assert system.circusctl("list") == listed
        sockets = (system.root / "var" / "run").glob("*.sock")
        assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}
        assert set(system.status()) == ALL
    assert ours == theirs


def test_circusctl_reloadconfig_makes_circusd_follow_the_file(system):
    with system.circusd():
        wait_until(lambda: system.output.count("event=ready ") == len(ALL), lambda: system.output)
        more = TOPOLOGY.replace("shards = 2", "shards = 3")
        (system.root / "topology.toml").write_text(more)
        system.circusctl("reloadconfig", "--waiting")
        system.wait_for_running(ALL | {"feed_2"})
        assert set(system.circusctl("list").split(",")) == ALL | {"feed_2"}
        assert "Traceback" not in system.output


def test_circusd_refuses_a_broken_topology_before_it_starts_anything(system):
    (system.root / "topology.toml").write_text(TOPOLOGY.replace("handle:handle", "handle:handel"))
    refused = system.run(CIRCUSD, "circus.ini")
    assert refused.returncode == 1
    assert "handel" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (system.root / "var" / "run" / "circus.sock").exists()


@pytest.mark.parametrize("options", [[], ["--detach"]])
def test_up_refuses_a_broken_topology_before_it_starts_anything(system, options):
    (system.root / "topology.toml").write_text(TOPOLOGY.replace("handle:handle", "handle:handel"))
    refused = system.feedbus("up", *options)
    assert refused.returncode == 1
    assert refused.stderr.count("error: ") == 1
    assert "handel" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (system.root / "var" / "run" / "circus.sock").exists()


def test_processes_that_start_together_share_memory_and_one_that_starts_later_runs_todays_code(
    system,
):
    with system.up():
        system.wait_for_output("all 5 processes are ready")
        assert all(shared_bytes(system.pids(name)[0]) > 2**20 for name in ("feed_0", "mail"))
        more = TOPOLOGY.replace("shards = 2", "shards = 6")
        (system.root / "topology.toml").write_text(more)
        applied = system.feedbus("apply", "--yes")
        assert applied.returncode == 0, applied.stderr
        added = {f"feed_{shard}" for shard in range(2, 6)}
        system.wait_for_running(ALL | added)
        assert all(shared_bytes(system.pids(name)[0]) > 2**20 for name in added)
        (system.root / "handle.py").write_text(HANDLE + "\nprint('changed', flush=True)\n")
        system.circusctl("restart", "mail", "--waiting")
        system.wait_for_running(["mail"])
        assert "changed" in (system.root / "var" / "log" / "mail.log").read_text()
        assert shared_bytes(system.pids("mail")[0]) < 2**20


def shared_bytes(pid):
    """Return the memory that a process has written and shares all the same."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"Shared_Dirty: +(\d+) kB", rollup)[1]) * 1024


def test_more_shards_in_the_file_are_more_consumers_after_down_and_up(system):
    up = system.feedbus("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert "logs are in" in up.stdout
    assert len(system.processes()) == 6
    down = system.feedbus("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    assert system.processes() == []
    more = TOPOLOGY.replace("shards = 2", "shards = 5")
    (system.root / "topology.toml").write_text(more)
    assert system.feedbus("up", "--detach").returncode == 0
    assert set(system.status()) == ALL | {"feed_2", "feed_3", "feed_4"}
    assert len(system.processes()) == 9


def test_where_nothing_runs_status_says_so_and_down_is_no_error(system):
    shown = system.feedbus("status")
    assert f"nothing runs in {system.root / 'var'}; start it with `feedbus up`" in shown.stdout
    assert len(re.findall(r" stopped ", shown.stdout)) == len(ALL)
    down = system.feedbus("down")
    assert (down.returncode, down.stdout) == (0, f"nothing runs in {system.root / 'var'}\n")


def test_down_clears_away_what_a_killed_supervisor_left(system):
    with system.up() as supervisor:
        system.wait_for_output("all 5 processes are ready")
        supervisor.kill()
        supervisor.wait()
        assert system.feedbus("down").returncode == 0
    run = system.root / "var" / "run"
    assert [path.name for path in run.iterdir() if path.suffix in {".sock", ".ready"}] == []
