import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from feedbus import config
from feedbus.supervisor.forkserver_client import ForkServer, Program, adopt_orphans
from feedbus.supervisor.preparation import prepare
from feedbus.supervisor.watched_process import Forked, WatchedProcess
from tests.projects import Project, gone, wait_until
from tests.required_servers import only_if
from tests.stopped_processes import stop_and_wait

pytestmark = only_if(sys.platform == "linux", "needs subreapers")

PROBE = """
import json, os, sys
umask = os.umask(0)
print(json.dumps({
    "arguments": sys.argv[1:],
    "environment": dict(os.environ),
    "folder": os.getcwd(),
    "first on the path": sys.path[0],
    "umask": umask,
    "parent": os.getppid(),
    "leads a session": os.getsid(0) == os.getpid(),
    "input": os.readlink("/proc/self/fd/0"),
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))),
    "is main": __name__ == "__main__",
    "command": open("/proc/self/cmdline").read().replace("\\0", " ").strip(),
}))
print("a word", file=sys.stderr)
"""


@pytest.fixture
def topology(tmp_path):
    return config.load(Project.at(tmp_path, "pass").topology)


@pytest.fixture
def folder(topology):
    return topology.root


@pytest.fixture
def forks(topology):
    adopt_orphans()
    with ForkServer(topology) as forks:
        yield forks
    adopt_orphans(wanted=False)


def program(folder, text, *arguments, environment=None):
    (folder / "probe.py").write_text(text)
    command = [sys.executable, "-m", "probe", *arguments]
    # Where bytecode is a second old, it may be an earlier test's.
    given = environment or os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    return Program(command, dict(given), str(folder))


def ended(worker):
    with worker.stdout, worker.stderr:
        reported = worker.stdout.read(), worker.stderr.read()
    wait_until(lambda: worker.poll() is not None)
    return reported


def test_a_forked_program_sees_what_a_started_one_sees(folder, forks):
    # Without LC_ALL Python would add a locale of its own choice.
    environment = {"LC_ALL": "C.UTF-8", "WORD": "täglich", "PYTHONUNBUFFERED": "1"}
    asked = program(folder, PROBE, "an argument", "--slot", "1", environment=environment)
    reported, errors = ended(Forked(forks, asked))
    started = subprocess.run(
        asked.command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        start_new_session=True,
        check=True,
    )
    expected = json.loads(started.stdout)
    seen = json.loads(reported)
    # A shell would need quotes, which the kernel's own list of arguments has not.
    assert seen.pop("command") == expected.pop("command").replace("an argument", "'an argument'")
    assert seen == expected
    assert seen["parent"] == os.getpid()
    assert errors == started.stderr


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_the_end_of_a_forked_program_is_reported_to_who_asked_for_it(folder, forks, text, code):
    worker = Forked(forks, program(folder, text))
    ended(worker)
    assert worker.returncode == code


def test_what_cannot_be_forked_is_reported_and_the_next_one_is_forked(folder, forks):
    asked = program(folder, "pass")
    with pytest.raises(FileNotFoundError):
        Forked(forks, Program(asked.command, asked.environment, str(folder / "absent")))
    worker = Forked(forks, asked)
    ended(worker)
    assert worker.returncode == 0


def test_no_descriptor_is_left_open(folder, forks):
    before = set(Path("/proc/self/fd").iterdir())
    ended(Forked(forks, program(folder, "pass")))
    with pytest.raises(FileNotFoundError):
        Forked(forks, Program([sys.executable, "-m", "probe"], {}, str(folder / "absent")))
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_server_that_was_killed_is_closed_and_python_is_started_again(folder, forks):
    os.kill(forks._process.pid, signal.SIGKILL)
    asked = program(folder, "print('here')")
    with pytest.raises(ConnectionError, match="has ended or does not answer"):
        Forked(forks, asked)
    assert forks.closed
    python, *arguments = asked.command
    process = WatchedProcess(
        "name",
        1,
        python,
        args=arguments,
        working_dir=str(folder),
        env=asked.environment,
        fork_server=forks,
    )
    assert process._worker.stdout.read() == b"here\n"
    process._worker.wait()
    process.close_output_channels()


def test_a_server_that_does_not_answer_is_killed(folder, forks, monkeypatch):
    monkeypatch.setattr("feedbus.supervisor.forkserver_client.PATIENCE_SECONDS", 0.1)
    stop_and_wait(forks.pid)
    with pytest.raises(ConnectionError, match="does not answer"):
        forks.fork(program(folder, "pass"), 1, 2)
    assert forks.closed
    assert gone(forks.pid)


def test_children_outlive_the_server_and_the_server_ends_with_who_started_it(folder, forks):
    worker = Forked(forks, program(folder, "import time; print('up', flush=True); time.sleep(60)"))
    assert worker.stdout.readline() == b"up\n"
    forks.close()
    assert worker.poll() is None
    worker.kill()
    ended(worker)
    adopt_orphans(wanted=False)  # or the next server would become a child of this process
    script = (
        "import time\n"
        "from pathlib import Path\n"
        "from feedbus import config\n"
        "from feedbus.supervisor.forkserver_client import ForkServer\n"
        f"forks = ForkServer(config.load(Path({str(folder / 'topology.toml')!r})))\n"
        "print(forks._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as owner:
        server = int(owner.stdout.readline())
        owner.kill()
    wait_until(lambda: gone(server))


@pytest.mark.parametrize("forking", [True, False])
def test_the_ground_is_prepared_with_a_fork_server_and_without(topology, forking, capfd, request):
    forks = request.getfixturevalue("forks") if forking else None
    assert prepare(topology, forks)
    assert (topology.var / "broker.db").exists()
    broken = topology.path.read_text().replace("[store]", "[store]\nprepare = 'absent:absent'")
    topology.path.write_text(broken)
    capfd.readouterr()
    assert not prepare(topology, forks)
    assert "absent" in capfd.readouterr().err
