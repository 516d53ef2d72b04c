"""The operations process under a real supervisor, in separate small projects."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import projects
from tests.projects import PATIENCE_SECONDS, Project, gone, wait_until

BODY = "note(n)"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Project:
    monkeypatch.delenv("FEEDBUS_OPERATIONS_PORT", raising=False)
    return Project.at(tmp_path, BODY)


@contextmanager
def up(project: Project) -> Iterator[str]:
    """Run a project until the block ends; yield the stderr and the stdout of `up`."""
    started = project.feedbus("up", "--detach")
    try:
        yield started.stderr + started.stdout
    finally:
        project.feedbus("down")


def status(project: Project) -> dict[str, Any]:
    return projects.status(project.topology)


def read(url: str, path: str) -> bytes:
    with urllib.request.urlopen(f"{url}{path}", timeout=PATIENCE_SECONDS) as answer:
        return answer.read()


def process(project: Project) -> int:
    (running,) = status(project)["processes"]["operations"]["processes"]
    return running["pid"]


def url_without(project: Project, killed: int) -> str | None:
    """Return the URL of the operations process; None while the URL is of a killed process."""
    found = status(project)
    running = found["processes"]["operations"]["processes"]
    return None if killed in {each["pid"] for each in running} else found["operations"]["url"]


def append(project: Project, text: str) -> None:
    with project.topology.open("a") as topology:
        topology.write(text)


@pytest.mark.parametrize("store", ["with", "without"])
def test_every_project_is_shown_once_it_is_up_and_again_after_a_kill(project, store):
    if store == "without":
        text = project.topology.read_text()
        project.topology.write_text(text.replace('[store]\nurl = "sqlite:///var/store.db"\n', ""))
    with up(project):
        url = status(project)["operations"]["url"]
        project.publish(1, 2)
        wait_until(lambda: b'consumer="work",verdict="ack"} 2.0' in read(url, "/metrics"))
        assert json.loads(read(url, "/readyz"))["status"] == "ok"
        killed = process(project)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: url_without(project, killed))
        again = url_without(project, killed)
        assert json.loads(read(again, "/healthz")) == {"status": "ok"}
        pid = process(project)
    assert gone(pid)
    assert status(project)["operations"]["url"] is None
    assert "Traceback" not in (project.folder / "var/log/operations.log").read_text()


def test_a_port_that_is_taken_is_an_error_that_stops_no_consumer(project):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        append(project, f"[operations]\nport = {port}\n")
        with up(project) as output:
            assert f"operations holds: cannot listen on 127.0.0.1 port {port}" in output
            assert "[operations]" in output
            assert "everything is ready" not in output
            assert "every process runs after " in output
            project.publish(1)
            wait_until(project.seen)
            found = status(project)
            assert found["operations"]["url"] is None
            assert found["processes"]["operations"]["state"] == "holding"
            assert f"port {port}" in project.feedbus("status").stdout
            other.close()
            wait_until(lambda: status(project)["operations"]["url"])
            assert status(project)["operations"]["url"] == f"http://127.0.0.1:{port}"
            assert status(project)["processes"]["operations"]["state"] == "running"


def test_by_hand_a_port_that_is_taken_ends_it_and_an_open_address_needs_the_token(project):
    with socket.create_server(("127.0.0.1", 0)) as other:
        refused = project.feedbus("operations", "--port", str(other.getsockname()[1]), code=1)
    assert "error: cannot listen on 127.0.0.1" in refused.stderr
    refused = project.feedbus("operations", "--host", "0.0.0.0", "--port", "0", code=1)
    assert "FEEDBUS_API_TOKEN" in refused.stderr


def test_a_changed_option_restarts_this_process_alone(project):
    with up(project):
        before = status(project)
        append(project, "[operations]\nport = 0\n")
        planned = json.loads(project.feedbus("plan", "--json", code=None).stdout)
        assert [one["name"] for one in planned["changes"]] == ["operations"]
        project.feedbus("apply", "--yes")
        wait_until(
            lambda: status(project)["operations"]["url"] not in {None, before["operations"]["url"]}
        )
        after = status(project)
        assert read(after["operations"]["url"], "/healthz")
        (work,), (same,) = (one["consumers"]["work"]["processes"] for one in (before, after))
        assert work["pid"] == same["pid"]


def test_a_project_may_do_without_it(project):
    append(project, "[operations]\nenabled = false\n")
    with up(project):
        found = status(project)
        assert found["processes"] == {}
        assert found["operations"]["url"] is None


DYING = """
import os, signal
from contextlib import contextmanager
from pathlib import Path
from feedbus.store.peewee import PeeweeStore

MARK = Path(__file__).with_name("died")
committing = PeeweeStore.transaction
handled = []

@contextmanager
def die_after_commit(self):
    with committing(self) as session:
        yield session
    if handled and not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)

PeeweeStore.transaction = die_after_commit

@handler(Numbered)
def parent(message, bus):
    handled.append(message["n"])
    note(f"parent{message['n']}")
    bus.publish("work", {"n": message["n"] + 1})
"""
ONCE = """
[exchanges.parents]
type = "direct"
[queues.parent]
exchange = "parents"
routing_keys = [""]
handler = "small_handlers:parent"
once = true
"""


def test_what_a_process_committed_and_died_before_publishing_is_published(project):
    handlers = project.folder / "small_handlers.py"
    handlers.write_text(handlers.read_text() + DYING)
    append(project, ONCE)
    with up(project):
        project.feedbus("publish", "parents", "--json", '{"n": 1}')
        wait_until(lambda: "2" in project.seen())
        wait_until(lambda: status(project)["consumers"]["parent"]["ready"] == 0)
        assert (project.folder / "died").exists()
    assert project.seen() == ["parent1", "2"]


def test_waiting_retries_are_seen_in_status(tmp_path):
    project = Project.at(tmp_path, "raise ValueError(n)")
    text = project.topology.read_text().replace('"20ms"', '"10m"')
    project.topology.write_text(text)
    with up(project):
        project.publish(1, 2)
        wait_until(lambda: status(project)["consumers"]["work"]["retrying"] == 2)
        assert "RETRYING" in project.feedbus("status").stdout


def test_up_prints_the_time_since_the_start_of_the_command(project):
    began = time.monotonic()
    with up(project) as printed:
        seconds = time.monotonic() - began
        found = re.search(r"everything is ready after ([\d.]+) s", printed)
    assert found is not None
    assert seconds / 2 < float(found[1]) < seconds + 0.1
