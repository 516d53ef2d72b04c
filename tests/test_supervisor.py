import asyncio
import gc
import getpass
import os
import resource
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from feedbus.errors import UsageError
from feedbus.supervisor import endpoint, log_path, watchers
from feedbus.supervisor.restart_policy import RestartPolicy, describe_exit
from feedbus.supervisor.rotated_log import RotatedLog
from feedbus.supervisor.run_command import run_command
from feedbus.topology import Exchange, Process, Queue, StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url
from tests.projects import PATIENCE_SECONDS


def topology(root, queues=(), processes=(), var=None):
    return Topology(
        name="test",
        path=root / "topology.toml",
        broker_url=parse_broker_url("sqlite:///var/broker.db"),
        store=StoreOptions(url=parse_store_url("sqlite:///var/store.db")),
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


def test_a_consumer_has_time_to_finish_its_handler_unless_the_file_says_otherwise(tmp_path):
    assert only_watcher(tmp_path, handler_timeout_seconds=60.0)["graceful_timeout"] == 65.0
    web = Process("web", ("python", "-m", "web"))
    assert watchers(topology(tmp_path, processes=[web]))[0]["graceful_timeout"] == 5.0


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


def test_a_folder_of_state_too_deep_for_a_unix_socket_is_reported_with_what_to_do(tmp_path):
    far = tmp_path.joinpath(*["deep" * 10] * 5)
    with pytest.raises(UsageError, match=r"too long for a unix socket .*, or in FEEDBUS_VAR"):
        endpoint(topology(tmp_path, var=far))


def test_the_first_failure_is_answered_at_once_and_the_next_ones_wait_longer_and_longer():
    restart_policy = RestartPolicy(start_retries=10)
    waits = [restart_policy.count_end(1, 0.3, None) for _ in range(7)]
    assert waits == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_it_gives_up_after_so_many_failures_in_a_row_right_after_the_start():
    restart_policy = RestartPolicy(start_retries=3)
    exhausted = []
    for _ in range(3):
        restart_policy.count_end(-9, 0.3, None)
        exhausted.append(restart_policy.exhausted)
    assert exhausted == [False, False, True]


@pytest.mark.parametrize(
    ("exit_code", "lived", "ready"),
    [(1, 60.0, 59.0), (-9, 4.0, 2.0), (1, 11.0, None), (0, 0.1, None)],
    ids=["lived long", "killed at work", "lived long without a word", "ended by itself"],
)
def test_any_other_end_begins_the_count_again(exit_code, lived, ready):
    restart_policy = RestartPolicy(start_retries=3, failures=2)
    assert restart_policy.count_end(exit_code, lived, ready) == 0.0
    assert restart_policy.failures == 0


def test_a_process_that_ends_well_but_at_once_is_slowed_and_never_given_up():
    restart_policy = RestartPolicy(start_retries=3)
    waits = [restart_policy.count_end(0, 0.1, 0.05) for _ in range(20)]
    assert waits[0] == 0.0
    assert waits[-1] == 2.0
    assert not restart_policy.exhausted


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


def test_a_log_is_rotated_between_lines_however_they_come(tmp_path):
    log = RotatedLog(str(tmp_path / "q.log"), max_bytes=10, backup_count=2)
    for piece in (b"fir", b"st 1\nsec", b"ond", b"\nthi", b"rd 3\n"):
        log({"data": piece})
    log.close()
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [
        b"third 3\n",
        b"second\n",
        b"first 1\n",
    ]


def test_lines_of_several_processes_do_not_mix_in_a_log(tmp_path):
    log = RotatedLog(str(tmp_path / "q.log"), max_bytes=1000, backup_count=2)
    for pid, piece in ((1, b"one "), (2, b"two "), (1, b"ends\n"), (2, b"ends\n"), (1, b"rest")):
        log({"data": piece, "pid": pid, "name": "stdout"})
    log.end(1)
    assert (tmp_path / "q.log").read_bytes() == b"one ends\ntwo ends\nrest\n"
    log.close()


@pytest.mark.parametrize("remove", [Path.unlink, lambda path: path.rename(f"{path}.moved")])
def test_a_log_that_was_moved_or_deleted_is_made_again(tmp_path, remove):
    path = tmp_path / "q.log"
    log = RotatedLog(str(path), max_bytes=1000, backup_count=2)
    log({"data": b"before\n"})
    remove(path)
    log({"data": b"after\n"})
    log.close()
    assert path.read_bytes() == b"after\n"


def test_a_full_disk_costs_whole_lines_which_are_counted(tmp_path):
    path = tmp_path / "q.log"
    log = RotatedLog(str(path), max_bytes=10**6, backup_count=2, consumer="q")
    with file_size_limit(100):
        for number in range(20):
            log({"data": b"line %2d\n" % number})
    log({"data": b"room again\n"})
    log.close()
    lines = path.read_text().splitlines()
    assert lines[:12] == [f"line {number:2}" for number in range(12)]
    dropped, *rest = lines[12:]
    assert "event=lines_dropped consumer=q lines=8 " in dropped
    assert rest == ["room again"]


@contextmanager
def file_size_limit(size_bytes):
    """Limit the size of files, so that the system refuses writes as on a full disk."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


def test_a_log_is_not_written_through_a_link(tmp_path):
    target, path = tmp_path / "target", tmp_path / "q.log"
    target.write_text("kept")
    path.symlink_to(target)
    log = RotatedLog(str(path), max_bytes=10, backup_count=2)
    log({"data": b"lost\n"})
    log.close()
    assert target.read_text() == "kept"


def test_a_command_of_the_supervisor_survives_the_garbage_collector(tmp_path):
    (tmp_path / "topology.toml").write_text('name = "empty"\n')
    finished = []

    async def run():
        finished.append(await run_command(tmp_path / "topology.toml", "check"))

    async def collect():
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(run()))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not finished and time.monotonic() < deadline:
            gc.collect()
            await asyncio.sleep(0.02)

    asyncio.run(collect())
    ((printed, code),) = finished
    assert printed.endswith(": 2 problems")
    assert code == 1


HANGS = """
import subprocess, sys, time
from pathlib import Path
own = subprocess.Popen(["sleep", "600"])
Path(__file__).with_name("own.pid").write_text(str(own.pid))
print("imported", flush=True)
time.sleep({seconds})
"""


@pytest.mark.parametrize(("seconds", "code"), [(600, None), (0, 1)], ids=["hangs", "ends"])
def test_a_command_that_exceeds_its_limit_gets_sigterm_and_processes_of_the_project_continue(
    tmp_path, seconds, code
):
    queue = '[queues.q]\nexchange = "e"\nrouting_keys = [""]\nhandler = "hangs:f"\n'
    text = f'name = "x"\n[exchanges]\ne = {{ type = "direct" }}\n{queue}'
    (tmp_path / "topology.toml").write_text(text)
    (tmp_path / "hangs.py").write_text(HANGS.format(seconds=seconds))
    printed, found = asyncio.run(
        run_command(
            tmp_path / "topology.toml",
            "check",
            limit_seconds=10.0 if code is None else PATIENCE_SECONDS,
        )
    )
    own = psutil.Process(int((tmp_path / "own.pid").read_text()))
    try:
        assert printed.startswith("imported")
        assert found == code
        assert own.status() != psutil.STATUS_ZOMBIE
        running = [one.info["cmdline"] or () for one in psutil.process_iter(["cmdline"])]
        assert not any(str(tmp_path / "topology.toml") in words for words in running)
    finally:
        own.kill()
