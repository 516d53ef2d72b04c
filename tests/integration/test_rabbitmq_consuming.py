"""Consumers on RabbitMQ outlive its restarts, cancellations and refusals by themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus, LiveBus
from feedbus.generations import topology_setup
from feedbus.generations.probes import Probes
from feedbus.metrics import Metrics
from feedbus.records import Records
from feedbus.ring import Ring
from feedbus.store.peewee import close_bound, database
from feedbus.topology import Batch, RetryPolicy
from store import migrations
from tests.ordered_queues import Failing, published, work
from tests.projects import PATIENCE_SECONDS, meanwhile, wait_until
from tests.site import served, topology_in, waiting
from tests.small_topologies import queue, sharded
from tests.systems import System

pytestmark = pytest.mark.integration
OUTAGES = "feedbus_outages_total"
WEIGHTS = (1, 2, 3, 1, 3, 2)


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


@contextmanager
def kept_running(system: System, function: Any):
    """Run the consumer of "work", again whenever it ends, as a supervisor does."""

    def run(over: threading.Event) -> None:
        while not over.is_set():
            system.run(function, idle_seconds=1.0)

    with meanwhile(run):
        yield


def spread(system: System, keys: list[str], folder: Path) -> dict[str, int]:
    """Ask `feedbus spread` how many of the keys each shard gets."""
    weights = ", ".join(f"{shard} = {weight}" for shard, weight in enumerate(WEIGHTS))
    (folder / "topology.toml").write_text(
        f'name = "{system.topology.name}"\n[broker]\nurl = "amqp://nowhere"\n'
        '[exchanges]\nring = { type = "x-consistent-hash" }\n'
        f'[queues.shard]\nexchange = "ring"\nshards = {len(WEIGHTS)}\nhandler = "none:none"\n'
        f"weights = {{ {weights} }}\n"
    )
    words = ["--topology", str(folder / "topology.toml"), "spread", "shard", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", *words, "--keys", "-"],
        input="".join(f"{key}\n" for key in keys),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {shard["name"]: shard["records"] for shard in json.loads(done.stdout)["shards"]}


def handled_by_shard(system: System) -> dict[str, list[str]]:
    """Run each shard's consumer until it is idle; return the keys that it handled."""
    handled: dict[str, list[str]] = {name: [] for name in system.topology.consumers}
    threads = [
        threading.Thread(
            target=system.run,
            args=(lambda message, _, own=own: own.append(message["text"]), name),
            kwargs={"idle_seconds": 2.0},
        )
        for name, own in handled.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return handled


def test_each_key_is_handled_by_the_shard_that_spread_names_also_after_a_restart(
    rabbitmq, tmp_path: Path
):
    shards = sharded(len(WEIGHTS), weights=WEIGHTS)
    system = System.at(tmp_path, shards, broker_url=rabbitmq.url)
    keys = [
        *map(str, range(150)),
        *(f"key-{n * n}" for n in range(100)),
        *("ä", "日本", "a b", "#"),
    ]
    ring = Ring.of(system.topology.generation("ring").members)
    expected = {name: [k for k in keys if ring.route(k) == name] for name in ring_names(system)}
    assert spread(system, keys, tmp_path) == {name: len(own) for name, own in expected.items()}
    for again in (False, True):
        if again:
            rabbitmq.restart()
        with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
            bus.publish_many("ring", [({"n": 1, "text": key}, key) for key in keys])
        assert handled_by_shard(system) == expected


def ring_names(system: System) -> list[str]:
    """Return the shards in the order of their numbers."""
    return list(system.topology.consumers)


def test_a_broker_that_restarts_under_load_loses_nothing(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(prefetch=20), broker_url=rabbitmq.url)
    metrics, confirmed, over = Metrics.none(), [], threading.Event()

    def publish() -> None:
        with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
            while not over.is_set():
                bus.publish("work", {"n": len(confirmed)})
                confirmed.append(len(confirmed))

    def slow(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        time.sleep(0.001)

    publisher = threading.Thread(target=publish)
    with system.running(slow, metrics=metrics):
        publisher.start()
        wait_until(lambda: len(system.seen) > 50)
        rabbitmq.restart()
        before = len(confirmed)
        wait_until(lambda: len(confirmed) > before + 50)
        over.set()
        publisher.join()
        wait_until(lambda: len(set(system.seen)) == len(confirmed))
    assert set(system.seen) == set(confirmed)
    assert metrics.value(OUTAGES, "work", "broker") == 1
    assert (system.ready(), system.dead()) == ({"work": 0}, [])


def test_a_cancelled_consumer_subscribes_again(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with kept_running(system, system.note):
        system.publish([1])
        wait_until(lambda: system.seen == [1])
        with broker.connect(system.topology) as connection:
            connection.default_channel.queue_delete(f"{system.topology.name}.work")
        topology_setup.set_up(system.topology)
        system.publish([2])
        wait_until(lambda: system.seen == [1, 2])


def test_a_refused_consumer_subscribes_as_soon_as_it_is_let(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    with broker.connect(system.topology) as connection:
        rival = connection.channel()
        rival.basic_consume(f"{system.topology.name}.work", exclusive=True, no_ack=False)
        system.publish([1])
        with system.running(system.note):
            time.sleep(1.5)
            assert system.seen == []
            rival.close()
            wait_until(lambda: system.seen == [1])


def test_a_consumer_handles_nothing_while_its_waiting_queue_refuses_its_probe(
    rabbitmq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    retry = RetryPolicy((0.1,), "dead-letter")
    system = System.at(tmp_path, work(retry=retry), broker_url=rabbitmq.url)
    names, handler = Names(system.topology), Failing({1: 1})
    waiting_queue = names.waiting(names.queue(system.topology.consumer("work")))
    published(system, [1])
    system.run(handler.one, max_messages=1)  # record 1 has failed, and waits
    published(system, [3])
    refused, publish = list[bool](), Probes._publish

    def note_refusal(probes: Probes, message_id: str) -> None:
        publish(probes, message_id)
        refused.append(probes.fence_needed)

    monkeypatch.setattr(Probes, "_publish", note_refusal)
    # With both options at once, RabbitMQ would drop the waiting record: it applies the limit first.
    overflow = {"overflow": "reject-publish"}
    try:
        for options in (overflow, {**overflow, "max-length": 0}):
            policy = {"pattern": waiting_queue, "definition": options, "apply-to": "queues"}
            rabbitmq.request("PUT", "/api/policies/%2F/full", policy)
            wait_until(lambda applied=options: applied == policy_of(rabbitmq, waiting_queue))
        with system.running(handler.one):
            wait_until(lambda: refused.count(True) > 1)
            assert handler.seen == []
            rabbitmq.request("DELETE", "/api/policies/%2F/full")
            wait_until(lambda: handler.seen == [1, 3])
    finally:
        with suppress(HTTPError):
            rabbitmq.request("DELETE", "/api/policies/%2F/full")


def policy_of(rabbitmq: Any, queue_name: str) -> Any:
    """Return the options that policies give to a queue now."""
    found = json.loads(rabbitmq.get(f"/api/queues/%2F/{queue_name}"))
    return found.get("effective_policy_definition")


def test_a_connection_that_the_broker_closes_is_opened_again(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    metrics = Metrics.none()
    with system.running(system.note, metrics=metrics):
        system.publish([1])
        wait_until(lambda: system.seen == [1])
        own = f"{system.topology.name}.work"
        wait_until(lambda: rabbitmq.unacknowledged(own) == 0)  # a lost ack would repeat the record
        rabbitmq.close_connections()
        system.publish([2])
        wait_until(lambda: system.seen == [1, 2])
    assert metrics.value(OUTAGES, "work", "broker") == 1


def test_heartbeats_go_on_while_a_handler_works(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=f"{rabbitmq.url}?heartbeat=1")
    metrics = Metrics.none()

    def work(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if message["n"] == 1:
            time.sleep(5.0)  # the broker drops a silent connection after two to three intervals

    with system.running(work, metrics=metrics):
        system.publish([1])
        wait_until(lambda: metrics.value("feedbus_deliveries_total", "work", "ack") == 1)
        system.publish([2])
        wait_until(lambda: len(system.seen) > 1)
    assert system.seen == [1, 2]
    assert metrics.value(OUTAGES, "work", "broker") == 0


def test_heartbeats_go_on_while_a_batch_waits_for_more_records(rabbitmq, tmp_path: Path):
    system = System.at(
        tmp_path, queue(batch=Batch(4, 6.0)), broker_url=f"{rabbitmq.url}?heartbeat=1"
    )
    metrics = Metrics.none()
    batches: list[list[int]] = []

    def work(records: Records, _bus: Bus) -> None:
        batches.append(records.column("n"))

    with system.running(work, metrics=metrics, batch=True):
        system.publish([1])
        wait_until(lambda: batches == [[1]])
        system.publish([2])
        time.sleep(3.0)
        system.publish([3])
        wait_until(lambda: len(batches) > 1)
    assert batches == [[1], [2, 3]]
    assert metrics.value(OUTAGES, "work", "broker") == 0


def test_heartbeats_go_on_while_the_store_is_away(rabbitmq, tmp_path: Path):
    system = System.at(tmp_path, queue(), broker_url=f"{rabbitmq.url}?heartbeat=1")
    metrics = Metrics.none()

    def write(message: dict[str, Any], _bus: Bus) -> None:
        database.execute_sql("INSERT INTO effects VALUES (?)", (message["n"],))

    with system.running(write, metrics=metrics):
        system.publish([1])
        time.sleep(7.0)  # by now it holds for longer than the broker waits
        database.execute_sql("CREATE TABLE effects (n integer)")
        wait_until(lambda: metrics.value("feedbus_deliveries_total", "work", "ack") == 1)
    assert database.execute_sql("SELECT n FROM effects").fetchall() == [(1,)]
    assert metrics.value(OUTAGES, "work", "store") == 1
    assert metrics.value(OUTAGES, "work", "broker") == 0


def test_the_web_answers_while_the_broker_is_away_and_its_posts_arrive_later(
    rabbitmq, tmp_path: Path
):
    topology = topology_in(tmp_path, FEEDBUS_BROKER_URL=rabbitmq.url)
    topology = replace(topology, name=f"web-{tmp_path.name}")
    migrations.migrate(topology)
    topology_setup.set_up(topology)
    with served(topology) as site:
        author = site.user("ann")
        rabbitmq.stop()
        try:
            for number in range(5):
                body = {"userId": author, "text": f"tweet {number}"}
                assert site.post("/api/v1/post-tweet", body).status == 202
            assert site.get("/metrics").status == 200
        finally:
            rabbitmq.start()
        wait_until(lambda: waiting(site, "publish_tweet") == 5)


def test_what_has_arrived_is_read_at_once(tmp_path: Path, rabbitmq: Any) -> None:
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    system.publish(range(100))
    reads: list[int] = []
    seen: list[Any] = []
    with broker.connect(system.topology) as connection:
        transport = connection.connection.transport
        receive = transport._quick_recv

        def counted(count: int) -> bytes:
            reads.append(count)
            return bytes(receive(count))

        transport._quick_recv = counted
        channel = connection.channel()
        channel.basic_qos(0, 100, False)
        name = Names(system.topology).queue(system.topology.consumer("work"))
        channel.basic_consume(name, callback=seen.append)
        while len(seen) < 100:
            connection.drain_events(timeout=PATIENCE_SECONDS)
    # Each has three frames, and py-amqp reads a frame in three parts.
    assert len(reads) < 300
    assert [json.loads(message.body)["n"] for message in seen] == list(range(100))
