"""A process that stops while it holds a lock or messages, as if its host had lost its power."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from feedbus import broker, config
from feedbus.errors import UsageError
from feedbus.generations import state_queues, topology_setup
from feedbus.topology import Topology
from tests.background_heartbeats import exchange_messages, stays_open
from tests.projects import ROOT, environment_without_options, wait_until

pytestmark = pytest.mark.integration

TOPOLOGY = """
name = "{name}"
[broker]
url = "{url}?heartbeat=1"
[exchanges]
feed = {{ type = "x-consistent-hash" }}
[queues.feed]
exchange = "feed"
shards = 2
handler = "handle:feed"
"""

HOLDER = """
import os, pathlib, signal, sys
from feedbus import broker, config
from feedbus.broker_names import Names

topology = config.load(pathlib.Path(sys.argv[1]), environ={}, import_handlers=False)

def stop():
    print("holds it", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)

with broker.connect(topology) as connection:
    if sys.argv[2] == "lock":
        with broker.locked(connection, topology):
            stop()
    else:
        assert connection.channel().basic_get(Names(topology).generations("feed")) is not None
        stop()
"""


def topology_in(folder: Path, url: str) -> Topology:
    path = folder / "topology.toml"
    path.write_text(TOPOLOGY.format(name=f"stopped-{uuid.uuid4().hex[:6]}", url=url))
    return config.load(path, environ={}, import_handlers=False)


def lock_is_free(topology: Topology) -> bool:
    with broker.connect(topology) as connection:
        try:
            with broker.locked(connection, topology, wait_seconds=0.0):
                return True
        except UsageError:
            return False


def state_can_be_read(topology: Topology) -> bool:
    with broker.connect(topology) as connection:
        return state_queues.read(connection.channel(), topology, "feed") is not None


@pytest.mark.parametrize(
    ("what", "is_free"), [("lock", lock_is_free), ("state", state_can_be_read)]
)
def test_what_a_stopped_process_holds_is_free_after_two_heartbeats(
    rabbitmq, tmp_path: Path, what: str, is_free: Callable[[Topology], bool]
) -> None:
    topology = topology_in(tmp_path, rabbitmq.url)
    topology_setup.set_up(topology)
    assert is_free(topology)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, topology.path, what],
        env=environment_without_options() | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "holds it\n"
            wait_until(lambda: is_free(topology))
        finally:
            os.kill(holder.pid, signal.SIGKILL)


def test_a_connection_stays_open_while_its_user_does_something_else(
    rabbitmq, tmp_path: Path
) -> None:
    stays_open(topology_in(tmp_path, rabbitmq.url), seconds=4.0)


def test_heartbeats_do_not_get_into_messages(
    rabbitmq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange_messages(topology_in(tmp_path, rabbitmq.url), monkeypatch)
