"""Requests to a supervisor that is slow, or does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import FeedbusError
from feedbus.supervisor import client
from feedbus.supervisor.client import Busy
from feedbus.topology import Topology
from tests.slot_holders import python

TOPOLOGY = """
name = "asked"
[exchanges]
jobs = { type = "fanout" }
[queues.work]
exchange = "jobs"
handler = "handle:work"
"""
# A process that holds the supervisor's lock. It reports its state, and answers the first other
# command after some seconds. With 0 seconds, it answers nothing.
SUPERVISOR = """
import json, os, sys, time
import zmq
from pathlib import Path
from feedbus import config
from feedbus.process.file_locks import take_lock
from feedbus.supervisor.arbiter import lock_path
from feedbus.supervisor.watcher_options import endpoint

topology = config.load(Path(sys.argv[1]), environ={}, import_handlers=False)
seconds = float(sys.argv[2])
os.chdir(topology.root)
take_lock(lock_path(topology))
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind(endpoint(topology))
print("ready", flush=True)
if not seconds:
    time.sleep(60)
end = waiting = None
while True:
    if socket.poll(20):
        who, request = socket.recv_multipart()
        if json.loads(request)["command"] == "feedbus":
            socket.send_multipart([who, b'{"watchers": {}}'])
        else:
            end, waiting = time.monotonic() + seconds, who
    if waiting and time.monotonic() > end:
        socket.send_multipart([waiting, b'{"status": "ok"}'])
        waiting = None
"""


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(client, "PROGRESS_SECONDS", 0.1)
    monkeypatch.setattr(client, "SILENT_SECONDS", 1.5)
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    return config.load(tmp_path / "topology.toml", environ={}, import_handlers=False)


@contextmanager
def supervisor(topology: Topology, seconds: float) -> Iterator[int]:
    with python(SUPERVISOR, topology.path, seconds) as process:
        assert process.stdout.readline() == "ready\n"
        yield process.pid


def test_a_command_that_waits_fails_if_the_supervisor_answers_nothing_at_all(
    topology: Topology,
) -> None:
    with supervisor(topology, 0) as pid:
        text = f"the supervisor, process {pid}, does not answer; `feedbus down` ends it"
        with pytest.raises(FeedbusError, match=text):
            client.ask(topology, "restart", progress=lambda _: None, waiting=True)


def test_a_command_that_waits_may_take_long_while_the_supervisor_reports_its_state(
    topology: Topology,
) -> None:
    shown: list[Sequence[Busy]] = []
    with supervisor(topology, 4.0):
        answer = client.ask(topology, "restart", progress=shown.append, waiting=True)
    assert answer == {"status": "ok"}
    assert len(shown) > 5
