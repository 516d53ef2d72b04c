"""The operations process's routes, served on loopback over small systems."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from feedbus import broker
from feedbus.cli.status import gather
from feedbus.cli.status_table import table
from feedbus.metrics import WaitingCounts, mark_waiting
from feedbus.operations import operations_process, queue_depths
from feedbus.operations.access_control import Guard
from feedbus.operations.http_server import CannotListen
from feedbus.operations.operations_process import OperationsServer
from feedbus.operations.url_file import write_url
from feedbus.process.slots import hold_slot
from feedbus.process.status_files import mark_holding
from feedbus.schedules.fired_moment import FiredMoment
from feedbus.topology import RetryPolicy, Schedule
from feedbus.urls import parse_broker_url
from servers import versions
from tests.operations import Served, served
from tests.site import problem
from tests.small_topologies import queue, sharded
from tests.system_fixtures import closing_store, systems_on
from tests.systems import System


@pytest.fixture
def system(tmp_path) -> Iterator[System]:
    with closing_store():
        yield System.at(tmp_path, queue(), sharded(3))


make = systems_on("embedded", *versions.chosen(), management=True)


def metrics(own: Served) -> str:
    return own.get("/metrics").body.decode()


def figures(own: Served, name: str) -> dict[str, Any]:
    queues = own.get("/operations.json").json["queues"]
    return next(one for one in queues if one["name"] == name)


def test_the_figures_say_what_waits_for_each_consumer(system):
    system.publish([1, 2])
    with served(system) as own:
        assert figures(own, "work")["consumers"][0]["ready"] == 2
        assert [one["name"] for one in figures(own, "shard")["consumers"]] == [
            "shard_0", "shard_1", "shard_2",
        ]  # fmt: skip
        found = own.get("/operations.json").json
    assert found["broker"] == {"kind": "SQLite", "reachable": True}
    assert found["store"] == {"kind": "SQLite", "reachable": True}


def test_the_figures_have_what_is_delayed_and_when_schedules_are_fired(tmp_path):
    with closing_store():
        system = System.at(tmp_path, queue())
        for name in ("fired", "new"):
            schedules = {**system.topology.schedules, name: Schedule(name, "30 2 * * *", "work")}
            system.topology = replace(system.topology, schedules=schedules)
        with broker.connect(system.topology) as connection:
            for name, minute in (("fired", 30), ("new", 31)):  # no firing, but when it was new
                schedule = system.topology.schedules[name]
                moment = datetime(2026, 1, 31, 2, minute, tzinfo=UTC)
                FiredMoment(connection.channel(), system.topology, schedule).write(moment)
        with system.bus() as bus:
            bus.publish("work", {"n": 1}, delay="1h")
        with served(system) as own:
            found = own.get("/operations.json").json
    assert found["delayed"] == {"waiting": 1, "undelivered": 0}
    assert [one["name"] for one in found["schedules"]] == ["fired", "new"]
    assert [one["last"] for one in found["schedules"]] == ["2026-01-31T02:30:00+00:00", None]
    assert all(one["last_known"] for one in found["schedules"])
    assert all(one["next"].endswith("T02:30:00+00:00") for one in found["schedules"])


def test_the_last_firing_of_a_schedule_is_not_known_while_the_broker_is_away(system):
    schedules = {"nightly": Schedule("nightly", "30 2 * * *", "work")}
    system.topology = replace(
        system.topology,
        schedules=schedules,
        broker_url=parse_broker_url("amqp://guest:guest@127.0.0.1:9//"),
    )
    with served(system) as own:
        (found,) = own.get("/operations.json").json["schedules"]
    assert (found["last"], found["last_known"]) == (None, False)


def test_metrics_have_the_depths_of_every_consumer_and_none_of_http(system):
    system.publish([1, 2, 3])
    with served(system) as own:
        exposed = metrics(own)
    assert 'feedbus_queue_messages{queue="work"} 3.0' in exposed
    assert 'feedbus_queue_messages{queue="shard_2"} 0.0' in exposed
    assert 'feedbus_dead_letters{queue="work"} 0.0' in exposed
    assert "http" not in exposed


def test_the_page_runs_under_a_policy_that_admits_its_own_script_alone(system):
    with served(system) as own:
        answer = own.get("/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    page = answer.body.decode()
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)
    assert not re.findall(r"\son\w+=|style=", page)
    assert 'fetch("/operations.json"' in page


def test_readiness_names_what_is_away_and_liveness_does_not_depend_on_it(system):
    with served(system) as own:
        assert own.get("/readyz").json["status"] == "ok"
    path = system.topology.broker_url.file
    for leftover in (path, *path.parent.glob("broker.db-*")):
        leftover.unlink()
    path.mkdir()  # nothing can be opened there
    with served(system) as own:
        answer = own.get("/readyz")
        assert list(problem(answer, 503)["errors"]) == ["broker"]
        assert str(path) not in answer.body.decode()
        assert own.get("/healthz").status == 200
        assert own.get("/operations.json").json["broker"]["reachable"] is False
        assert figures(own, "work")["consumers"][0]["ready"] is None


def test_readiness_names_a_store_that_cannot_be_read(system):
    system.store.close()
    store = system.topology.store_url.file
    for leftover in store.parent.glob("store.db-*"):
        leftover.unlink()
    store.write_bytes(b"no database at all" * 100)
    with served(system) as own:
        answer = own.get("/readyz")
        assert list(problem(answer, 503)["errors"]) == ["store"]
        assert str(store) not in answer.body.decode()


def test_readiness_names_a_disk_that_is_full(system, monkeypatch):
    (system.topology.var / "log").mkdir(parents=True)
    monkeypatch.setattr(
        "feedbus.operations.unwritable_folders.unwritable",
        lambda folder: f"{folder}: No space left on device" if folder.name == "log" else "",
    )
    with served(system) as own:
        assert problem(own.get("/readyz"), 503)["errors"] == {"disk": ["Cannot be written to."]}


def test_readiness_and_the_figures_name_a_consumer_that_holds(system):
    topology = system.topology
    with hold_slot(topology, "work", 1), served(system) as own:
        mark_holding("the store is unavailable")
        assert problem(own.get("/readyz"), 503)["errors"] == {"consumers": ["1 of 4 hold."]}
        assert figures(own, "work")["consumers"][0]["holding"] == ["the store is unavailable"]
        assert 'feedbus_holding_processes{consumer="work"} 1.0' in metrics(own)
        mark_holding("")
        assert own.get("/readyz").status == 200
        assert figures(own, "work")["consumers"][0]["holding"] == []
        assert 'feedbus_holding_processes{consumer="work"} 0.0' in metrics(own)


def test_failed_records_and_the_records_that_wait_for_them_are_counted_apart(system):
    topology = system.topology
    with hold_slot(topology, "work", 1), served(system) as own:
        mark_waiting(WaitingCounts(waiting=3, retrying=2))
        work = figures(own, "work")
        assert (work["retrying"], work["consumers"][0]["waiting"]) == (2, 3)
        exposed = metrics(own)
        assert 'feedbus_retrying_records{consumer="work"} 2.0' in exposed
        assert 'feedbus_waiting_records{consumer="work"} 3.0' in exposed
        found = gather(topology)
        one = found["consumers"]["work"]
        assert (one["retrying"], one["waiting"]) == (2, 3)
        assert found["consumers"]["shard_0"]["retrying"] == 0
        header, row = table(found).splitlines()[:2]
        shown = {name: row[header.index(name) :].split()[0] for name in ("RETRYING", "WAITING")}
        assert shown == {"RETRYING": "2", "WAITING": "3"}
        mark_waiting(WaitingCounts())
        assert figures(own, "work")["retrying"] == 0
        assert 'feedbus_waiting_records{consumer="work"} 0.0' in metrics(own)


def test_a_process_that_was_killed_while_it_held_holds_no_more(system):
    source = (
        "import os, pathlib, types; from feedbus.process.slots import hold_slot\n"
        "from feedbus.process.status_files import mark_holding\n"
        f"where = types.SimpleNamespace(var=pathlib.Path({str(system.topology.var)!r}))\n"
        "with hold_slot(where, 'work', 1):\n"
        "    mark_holding('the store is unavailable')\n"
        "    print('holds', flush=True)\n"
        "    input()\n"
    )
    with served(system) as own:
        command = [sys.executable, "-c", source]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout.readline() == b"holds\n"
            assert own.get("/readyz").status == 503
            other.kill()
            other.wait()
        assert own.get("/readyz").status == 200


def test_messages_that_wait_for_their_next_attempt_are_counted(make):
    system = make(queue(retry=RetryPolicy((600.0, 900.0))), sharded(2, retry=RetryPolicy((600.0,))))

    def fail(message, bus):
        raise ValueError

    system.publish([1, 2, 3])
    system.publish([4], "ring", "a key")
    system.run(fail, idle_seconds=1.0)
    for shard in ("shard_0", "shard_1"):
        system.run(fail, shard, idle_seconds=1.0)
    with served(system) as own:
        work, shard = figures(own, "work"), figures(own, "shard")
        assert (work["retrying"], work["consumers"][0]["ready"], work["dead"]) == (3, 0, 0)
        assert (shard["retrying"], shard["dead"]) == (1, 0)
        exposed = metrics(own)
    assert 'feedbus_retrying_messages{queue="work"} 3.0' in exposed
    assert 'feedbus_retrying_messages{queue="shard"} 1.0' in exposed


def test_the_broker_is_asked_at_most_once_a_second(system, monkeypatch):
    asked = []
    monkeypatch.setattr(queue_depths, "depths_of", lambda *_: asked.append(1) or {})
    monkeypatch.setattr(queue_depths, "FRESH_SECONDS", 600.0)
    with served(system) as own:
        for _ in range(3):
            own.get("/operations.json")
            metrics(own)
    assert len(asked) == 1


def test_a_server_that_others_reach_asks_for_the_token_except_for_health_and_the_page(system):
    with served(system, Guard(b"secret", loopback=False)) as own:
        for path in ("/metrics", "/operations.json"):
            problem(own.get(path), 401)
            assert own.get(path, Authorization="Bearer secret").status == 200
        for path in ("/", "/healthz", "/readyz"):
            assert own.get(path).status == 200


def test_on_loopback_metrics_need_no_token(system):
    with served(system, Guard(b"secret", loopback=True)) as own:
        assert own.get("/metrics").status == 200
        problem(own.get("/operations.json"), 401)


def test_an_unknown_path_names_those_that_there_are(system):
    with served(system) as own:
        assert "/readyz" in problem(own.get("/api/v1/get-tweets"), 404)["detail"]
        assert json.loads(own.get("/healthz").body) == {"status": "ok"}


def test_a_free_port_is_used_where_the_usual_one_is_taken_unless_a_port_was_chosen(
    system, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(operations_process, "OPERATIONS_PORT", taken)
        found = OperationsServer(system.topology, "127.0.0.1", None, supervised=False).listen()
        with found[0] as listener:
            port = listener.getsockname()[1]
            assert port != taken
            write_url(system.topology, f"http://127.0.0.1:{port}")
        after = OperationsServer(system.topology, "127.0.0.1", None, supervised=False).listen()
        with after[0] as listener:
            assert listener.getsockname()[1] == port  # a restart keeps its address
        chosen = OperationsServer(system.topology, "127.0.0.1", taken, supervised=False)
        with pytest.raises(CannotListen, match=f"port {taken}: Address already in use"):
            chosen.listen()
