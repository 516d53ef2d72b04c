import getpass
import os
import signal
import sys
from pathlib import Path

import pytest

from feedbus.errors import UsageError
from feedbus.supervisor import endpoint, log_path, watchers
from feedbus.supervisor.endurance import Endurance, describe_exit
from feedbus.supervisor.logs import RotatedLog
from feedbus.topology import Exchange, Process, Queue, Topology
from feedbus.urls import parse_broker_url, parse_store_url


def topology(root, queues=(), processes=(), var=None):
    return Topology(
        name="test",
        path=root / "topology.toml",
        broker_url=parse_broker_url("sqlite:///var/broker.db"),
        store_url=parse_store_url("sqlite:///var/store.db"),
        exchanges={"ring": Exchange("ring", "x-consistent-hash"), "e": Exchange("e", "direct")},
        queues={queue.name: queue for queue in queues},
        processes={process.name: process for process in processes},
        var=var or root / "var",
    )


def only_watcher(root, **options):
    return watchers(topology(root, [Queue("q", "e", "m:f", **options)]))[0]


def test_there_is_one_watcher_for_each_shard_queue_and_process_named_as_they_are(tmp_path):
    shards = Queue("feed", "ring", "m:f", shards=3, weights=(1, 1, 1))
    mail = Queue("notify.email", "e", "m:f")
    web = Process("web", ("python", "-m", "web"))
    made = watchers(topology(tmp_path, [shards, mail], [web]))
    assert [one["name"] for one in made] == ["feed_0", "feed_1", "feed_2", "notify.email", "web"]


def test_a_consumers_watcher_runs_it_with_this_python_in_the_topologys_folder(tmp_path):
    watcher = only_watcher(tmp_path)
    assert watcher["cmd"] == sys.executable
    file = str(tmp_path / "topology.toml")
    run = ["run", "q", "--slot", "$(circus.wid)"]
    assert watcher["args"] == ["-m", "feedbus", "--topology", file, *run]
    assert watcher["working_dir"] == str(tmp_path)
    assert watcher["env"]["FEEDBUS_SUPERVISED"] == str(os.getpid())


def test_a_process_named_python_is_the_python_that_runs_feedbus(tmp_path):
    web = Process("web", ("python", "-m", "web"), memory_limit_bytes=5, environment={"A": "b"})
    watcher = watchers(topology(tmp_path, processes=[web]))[0]
    assert watcher["args"][-4:] == ["--", sys.executable, "-m", "web"]
    assert watcher["args"][-6:-4] == ["--memory-limit", "5"]
    assert watcher["env"]["A"] == "b"


def test_a_watcher_has_the_queues_processes_retries_and_stop_timeout(tmp_path):
    watcher = only_watcher(tmp_path, processes=3, start_retries=4, stop_timeout_seconds=2.5)
    assert watcher["numprocesses"] == 3
    assert watcher["start_retries"] == 4
    assert watcher["graceful_timeout"] == 2.5
    assert watcher["stop_signal"] == signal.SIGTERM


def test_no_watcher_stops_so_slowly_that_circus_refuses_commands_for_long(tmp_path):
    assert only_watcher(tmp_path, stop_timeout_seconds=60.0)["graceful_timeout"] == 5.0


def test_a_shard_never_has_a_second_process_unless_the_file_asks_for_it(tmp_path):
    one = Queue("feed", "ring", "m:f", shards=1, weights=(1,))
    two = Queue("more", "ring", "m:f", shards=1, weights=(1,), processes=2)
    mail = Queue("mail", "e", "m:f")
    made = watchers(topology(tmp_path, [one, two, mail]))
    assert [watcher["singleton"] for watcher in made] == [True, False, False]


def test_logs_go_to_a_closed_folder_and_are_rotated(tmp_path):
    log = only_watcher(tmp_path)["stdout_stream"]
    assert log["filename"] == str(tmp_path / "var" / "log" / "q.log")
    assert log["max_bytes"] > 0
    assert log["backup_count"] > 0
    assert (tmp_path / "var" / "log").stat().st_mode & 0o777 == 0o700


def test_a_name_with_a_slash_stays_in_the_log_folder(tmp_path):
    made = topology(tmp_path)
    assert log_path(made, "../q") == tmp_path / "var" / "log" / "..%2Fq.log"


def test_the_user_who_runs_it_already_needs_no_change_of_user(tmp_path):
    assert only_watcher(tmp_path, user=getpass.getuser())["uid"] is None


def test_an_unknown_user_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match="q: user: no user named 'nobody-such'"):
        only_watcher(tmp_path, user="nobody-such")


def test_sockets_are_addressed_from_the_topologys_folder_however_deep_it_lies(tmp_path):
    deep = tmp_path.joinpath(*["deep" * 10] * 5)
    assert endpoint(topology(deep)) == "ipc://var/run/circus.sock"


def test_a_folder_of_state_too_deep_for_a_unix_socket_is_told_with_what_to_do(tmp_path):
    far = tmp_path.joinpath(*["deep" * 10] * 5)
    with pytest.raises(UsageError, match=r"too long for a unix socket .* set FEEDBUS_VAR"):
        endpoint(topology(tmp_path, var=far))


def test_the_first_failure_is_answered_at_once_and_the_next_ones_wait_longer_and_longer():
    endurance = Endurance(start_retries=10)
    waits = [endurance.ended(1, 0.3, None) for _ in range(7)]
    assert waits == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_it_gives_up_after_so_many_quick_failures_in_a_row():
    endurance = Endurance(start_retries=3)
    told = []
    for _ in range(3):
        endurance.ended(-9, 0.3, None)
        told.append(endurance.exhausted)
    assert told == [False, False, True]


@pytest.mark.parametrize(
    ("exit_code", "lived", "ready"),
    [(1, 60.0, 59.0), (-9, 4.0, 2.0), (1, 11.0, None), (0, 0.1, None)],
    ids=["lived long", "killed at work", "lived long without a word", "ended by itself"],
)
def test_what_is_no_quick_failure_begins_the_count_anew(exit_code, lived, ready):
    endurance = Endurance(start_retries=3, failures=2)
    assert endurance.ended(exit_code, lived, ready) == 0.0
    assert endurance.failures == 0


def test_a_process_that_ends_well_but_at_once_is_slowed_and_never_given_up():
    endurance = Endurance(start_retries=3)
    waits = [endurance.ended(0, 0.1, 0.05) for _ in range(20)]
    assert waits[0] == 0.0
    assert waits[-1] == 2.0
    assert not endurance.exhausted


def test_an_exit_is_described_in_words():
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-200) == "killed by signal 200"


def test_a_log_is_rotated_by_size_and_keeps_only_so_many_older_files(tmp_path):
    log = RotatedLog(str(tmp_path / "q.log"), max_bytes=10, backup_count=2)
    for line in (b"first 1\n", b"second\n", b"third 3\n", b"fourth\n"):
        log({"data": line})
    log.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "q.log": b"fourth\n",
        "q.log.1": b"third 3\n",
        "q.log.2": b"second\n",
    }
    assert (tmp_path / "q.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_costs_lines_and_never_the_supervisor(tmp_path):
    path = tmp_path / "q.log"
    path.symlink_to("/dev/full")
    log = RotatedLog(str(path), max_bytes=10, backup_count=2)
    log({"data": b"lost\n"})
    log.close()
