"""The servers of the tests: they end with the tests; which versions a run of the tests uses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from servers import postgres, versions
from servers.compose import PROJECT
from servers.owned import OwnedProcess
from tests.projects import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.processes

OWNER = """
import signal, subprocess
from servers.owned import OwnedProcess
command = ["sh", "-c", "sleep 600 & echo $!; wait"]
server = OwnedProcess(command, stdout=subprocess.PIPE, text=True)
print(server.pid, server.stdout.readline(), flush=True)
signal.pause()
"""


def test_a_server_and_its_children_end_when_the_tests_that_started_it_are_killed():
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(psutil.pid_exists, pids))
        owner.kill()
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))


def test_a_server_that_was_ended_is_not_ended_again():
    server = OwnedProcess(["sleep", "600"])
    os.killpg(server.pid, signal.SIGTERM)
    keeper = server._keeper
    assert server.wait(PATIENCE_SECONDS) == -signal.SIGTERM
    assert keeper.returncode == 0


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has only the versions that the test names."""

    def make(*names):
        for name in names:
            root = tmp_path / f"rabbitmq-{name}"
            (root / f"usr/lib/rabbitmq/lib/rabbitmq_server-{name}").mkdir(parents=True)
            (root / "usr/lib/erlang/bin").mkdir(parents=True)
            (root / "usr/lib/erlang/bin/erl").touch()

    monkeypatch.setattr(versions, "SYSTEM", tmp_path / "nothing")
    monkeypatch.setattr(versions, "UNPACKED", (tmp_path,))
    monkeypatch.delenv("FEEDBUS_RABBITMQ_VERSIONS", raising=False)
    monkeypatch.delenv("FEEDBUS_REQUIRE_SERVERS", raising=False)
    return make


@pytest.mark.parametrize(
    ("there", "asked", "used"),
    [
        (["3.10.8", "4.0.5", "4.3.6"], None, ["3.10", "4.3"]),
        (["3.10.8", "4.0.5", "4.3.6"], "all", ["3.10", "4.0", "4.3"]),
        (["3.10.8", "4.0.5", "4.3.6"], "4.0, 4.3", ["4.0", "4.3"]),
        (["4.9.1", "4.10.0"], None, ["4.9", "4.10"]),
        (["4.3.6"], None, ["4.3"]),
        (["3.10.8"], None, ["3.10", "4"]),
        ([], None, ["3", "4"]),
    ],
)
def test_the_oldest_and_the_newest_version_are_used_unless_others_are_asked_for(
    machine, monkeypatch, there, asked, used
):
    machine(*there)
    if asked:
        monkeypatch.setenv("FEEDBUS_RABBITMQ_VERSIONS", asked)
    assert versions.chosen() == used


def test_a_version_is_found_by_its_beginning_and_the_newest_wins(machine):
    machine("4.0.5", "4.10.0", "4.3.6")
    assert versions.find("4").name == "4.10.0"
    assert versions.find("4.0").name == "4.0.5"
    assert versions.find("4.1") is None


@pytest.mark.parametrize(
    ("there", "used"), [(["4.3.6"], ["3", "4.3"]), (["3.10.8"], ["3.10", "4"]), ([], ["3", "4"])]
)
def test_where_all_servers_are_required_a_missing_version_is_among_those_to_use(
    machine, monkeypatch, there, used
):
    machine(*there)
    monkeypatch.setenv("FEEDBUS_REQUIRE_SERVERS", "1")
    assert versions.chosen() == used


def test_where_all_servers_are_required_a_missing_postgresql_is_among_those_to_use(monkeypatch):
    monkeypatch.setattr(postgres, "installed", lambda: {17: Path("/nowhere")})
    monkeypatch.setenv("FEEDBUS_REQUIRE_SERVERS", "1")
    assert postgres.chosen() == [15, 17]


SKIPPING = """
import pytest

def test_skips():
    pytest.skip("PostgreSQL is not installed")

@pytest.mark.xfail
def test_fails_as_expected():
    assert False

@pytest.fixture
def server():
    pytest.skip("RabbitMQ is not installed")

def test_uses_a_server(server):
    assert True
"""
SKIPPED_MODULE = """
import pytest

pytest.skip("Prometheus is not installed", allow_module_level=True)
"""


@pytest.mark.parametrize(
    ("required", "code", "reported"),
    [("0", 0, "2 skipped, 1 xfailed"), ("1", 1, "2 failed, 1 error")],
)
def test_where_all_servers_are_required_no_test_is_skipped(tmp_path, required, code, reported):
    ended = run_tests(tmp_path, SKIPPING, required)
    assert ended.returncode == code, ended.stdout
    assert reported in ended.stdout
    if required == "1":
        assert "RabbitMQ is not installed (FEEDBUS_REQUIRE_SERVERS=1" in ended.stdout


def test_where_all_servers_are_required_no_module_is_skipped(tmp_path):
    assert "1 skipped" in run_tests(tmp_path, SKIPPED_MODULE, "0").stdout
    ended = run_tests(tmp_path, SKIPPED_MODULE, "1")
    assert ended.returncode != 0
    assert "Prometheus is not installed (FEEDBUS_REQUIRE_SERVERS=1" in ended.stdout


def run_tests(tmp_path, module, required):
    """Run the tests of a module in another process of pytest."""
    (tmp_path / "test_skipping.py").write_text(module)
    command = ["-m", "pytest", "-p", "tests.required_servers", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, *command, "-c", os.devnull, "--rootdir", tmp_path, tmp_path],
        env={
            **os.environ,
            "FEEDBUS_REQUIRE_SERVERS": required,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
