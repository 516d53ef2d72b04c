"""Schedules: each moment is fired once, with several hosts, restarts and changed clocks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.cli import main
from feedbus.cli.status import gather
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.generations import topology_setup
from feedbus.inline.loaded_projects import on_broker, unused_name
from feedbus.metrics import Metrics
from feedbus.plan import Watchers
from feedbus.plan.planning import make_plan
from feedbus.schedules import fired_moment
from feedbus.schedules import scheduler as scheduler_module
from feedbus.schedules.fired_moment import FiredMoment, fired_moments
from feedbus.schedules.scheduler import Scheduler
from feedbus.supervisor.applied_settings import AppliedSettings
from feedbus.testing import TestSystem
from feedbus.topology import Operations, Topology
from feedbus.transports import memory
from feedbus.urls import parse_broker_url
from servers import versions
from tests.topologies import STOCKTAKING

HANDLERS = """
from feedbus import handler

@handler
def count(order: dict) -> None:
    pass
"""


class Wall:
    """A wall clock that a test sets."""

    def __init__(self, text: str) -> None:
        self.set(text)

    def set(self, text: str) -> None:
        self.moment = datetime.fromisoformat(text)

    def wall_nanoseconds(self) -> int:
        return round(self.moment.timestamp()) * 10**9


def topology_of(folder: Path, text: str = STOCKTAKING) -> Topology:
    (folder / "stock.py").write_text(HANDLERS)
    path = folder / "topology.toml"
    path.write_text(text)
    return config.load(path)


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    """Return a project whose broker is in memory."""
    name = unused_name()
    memory.create(memory.MemoryBroker(name))
    yield on_broker(topology_of(tmp_path), name)
    memory.remove(name)


@contextmanager
def host(
    topology: Topology, clock: Wall | None = None, metrics: Metrics | None = None
) -> Iterator[Scheduler]:
    """Run the bus and the scheduler of one host; the test calls the scheduler."""
    metrics = metrics or Metrics.none()
    with LiveBus(topology, metrics, timeout_seconds=2.0) as bus:
        yield Scheduler(topology, bus, metrics, clock)


def published(topology: Topology) -> list[str]:
    """Take the messages of the queue, and return their ids without the project's part."""
    found = []
    with broker.connect(topology) as connection:
        channel = connection.channel()
        while (message := channel.basic_get(f"{topology.name}.count", no_ack=True)) is not None:
            assert message.delivery_info["routing_key"] == "stock.all"
            assert json.loads(message.body) == {"kind": "stocktaking", "shelves": [1, 2]}
            found.append(message.properties["message_id"].removeprefix(f"{topology.name}."))
    return found


def test_a_new_schedule_begins_now_and_is_fired_once_at_each_moment(topology):
    clock = Wall("2026-01-31T12:00Z")
    metrics = Metrics.none()
    with host(topology, clock, metrics) as scheduler:
        assert scheduler.fire_due() == scheduler_module.CHECK_SECONDS
        clock.set("2026-02-01T01:29:57Z")
        assert scheduler.fire_due() == 3.0
        assert published(topology) == []
        clock.set("2026-02-01T01:30:02Z")
        scheduler.fire_due()
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]
    assert metrics.value("feedbus_schedule_fired_total", "nightly") == 1
    assert metrics.value("feedbus_schedule_lateness_seconds", "nightly") == 1


def test_two_hosts_fire_a_moment_once_and_another_takes_over(topology):
    clock = Wall("2026-01-31T12:00Z")
    with host(topology, clock) as one, host(topology, clock) as other:
        one.fire_due()
        other.fire_due()
        for day in (1, 2):
            clock.set(f"2026-02-0{day}T01:30:00Z")
            one.fire_due()
            other.fire_due()
        clock.set("2026-02-03T01:30:00Z")
        other.fire_due()
    assert published(topology) == [f"nightly@2026-02-0{day}T01:30:00Z" for day in (1, 2, 3)]


def test_a_restart_repeats_nothing_and_fires_what_was_missed_meanwhile(topology):
    clock = Wall("2026-01-31T12:00Z")
    for now in ("2026-01-31T12:00Z", "2026-02-01T01:30:00Z", "2026-02-01T01:30:00Z"):
        clock.set(now)
        with host(topology, clock) as scheduler:
            scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]
    clock.set("2026-02-04T02:29:00Z")  # two moments are too old, the third was 59 minutes ago
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-04T01:30:00Z"]


def test_after_an_outage_the_moment_is_in_its_queue_before_another_host_gets_the_lock(
    topology, monkeypatch
):
    clock, found = Wall("2026-01-31T12:00Z"), list[dict[str, datetime]]()
    locked = broker.locked

    @contextmanager
    def locked_then_read(*arguments: Any) -> Iterator[None]:
        try:
            with locked(*arguments):
                yield
        finally:
            with broker.connect(topology) as connection:
                found.append(fired_moments(connection, topology))

    def fail(*_: object) -> None:
        raise BrokerOutage

    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        monkeypatch.setattr(broker, "locked", locked_then_read)
        monkeypatch.setattr(scheduler_module, "fire", fail)
        clock.set("2026-02-01T01:30:00Z")
        with pytest.raises(BrokerOutage):
            scheduler.fire_due()
    assert found == [{"nightly": datetime(2026, 1, 31, 12, tzinfo=UTC)}]


def test_a_moment_that_was_missed_longer_ago_than_the_limit_is_skipped(topology, caplog):
    clock = Wall("2026-01-31T12:00Z")
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
    clock.set("2026-02-01T02:31:00Z")
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
    assert published(topology) == []
    assert "event=schedule_missed schedule=nightly missed_from=2026-02-01T01:30:00Z" in caplog.text


def test_a_clock_that_is_set_back_fires_nothing_twice(topology):
    clock = Wall("2026-02-01T00:00Z")
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        clock.set("2026-02-01T01:30:00Z")
        scheduler.fire_due()
        for now in ("2026-01-30T01:29:00Z", "2026-01-30T01:30:00Z", "2026-02-01T01:30:00Z"):
            clock.set(now)
            scheduler.fire_due()
        assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]
        clock.set("2026-02-02T01:30:00Z")
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-02T01:30:00Z"]


def test_a_clock_that_is_set_forward_fires_once_and_says_so_when_it_comes_back(topology, caplog):
    often = {"nightly": replace(topology.schedule("nightly"), cron="* * * * *")}
    topology = replace(topology, schedules=often)
    clock = Wall("2026-02-01T00:00Z")
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        clock.set("2036-02-01T00:00Z")
        scheduler.fire_due()
        scheduler.fire_due()
        assert published(topology) == ["nightly@2036-02-01T00:00:00Z"]
        clock.set("2026-02-01T00:05Z")
        scheduler.fire_due()
    assert published(topology) == []
    assert "its last firing was at 2036-02-01T00:00:00Z" in caplog.text


def test_a_crash_before_the_moment_is_noted_publishes_it_again_under_the_same_id(
    topology, monkeypatch
):
    clock = Wall("2026-02-01T00:00Z")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        clock.set("2026-02-01T01:30:00Z")
        with monkeypatch.context() as patched:
            patched.setattr(FiredMoment, "write", die)
            with pytest.raises(KeyboardInterrupt):
                scheduler.fire_due()
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"] * 2


def test_a_message_that_the_broker_refuses_is_tried_again_and_logged_once(topology, caplog):
    clock = Wall("2026-02-01T00:00Z")
    unbound = ("stock.all", f"{topology.name}.orders", "stock.#")
    with host(topology, clock) as scheduler, broker.connect(topology) as connection:
        scheduler.fire_due()
        queue, exchange, key = f"{topology.name}.count", *unbound[1:]
        channel = connection.channel()
        channel.queue_unbind(queue, exchange, key)
        for seconds in (0, 10, 20):
            clock.set(f"2026-02-01T01:30:{seconds:02}Z")
            scheduler.fire_due()
        assert caplog.text.count("for the routing key 'stock.all'") == 1
        channel.queue_bind(queue, exchange, key)
        clock.set("2026-02-01T01:30:30Z")
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]


def test_foreign_messages_beside_the_moment_are_dropped_when_the_next_is_noted(topology):
    clock = Wall("2026-02-01T00:00Z")
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        with broker.connect(topology) as connection:
            channel = connection.channel()
            queue = Names(topology).schedule("nightly")
            for body in ("nonsense", "2026-13-01T00:00:00Z", "2025-01-01T00:00:00"):
                channel.basic_publish(channel.prepare_message(body), "", queue)
        clock.set("2026-02-01T01:30:00Z")
        scheduler.fire_due()
    with broker.connect(topology) as connection:
        assert broker.count_messages(connection, queue) == 1
        fired = fired_moments(connection, topology)
    assert fired == {"nightly": datetime(2026, 2, 1, 1, 30, tzinfo=UTC)}
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]


@pytest.mark.parametrize("version", ["embedded", *versions.chosen()])
def test_a_moment_that_is_due_while_another_program_reads_the_last_one_is_fired_afterwards(
    version, tmp_path, request, monkeypatch, caplog
):
    url = f"sqlite:///{tmp_path}/broker.db"
    if version != "embedded":
        url = request.getfixturevalue("rabbitmq_nodes")(version).url
    text = STOCKTAKING.replace('"shop"', f'"shop-{unused_name()}"')
    topology = topology_of(
        tmp_path, text.replace("[exchanges]", f'[broker]\nurl = "{url}"\n[exchanges]')
    )
    clock, read, moments = Wall("2026-02-01T00:00Z"), fired_moment.read_moment, []
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        clock.set("2026-02-01T01:30:00Z")

        def read_while_due(body: bytes) -> datetime | None:
            if not moments:
                scheduler.fire_due()
            moments.append(read(body))
            return moments[-1]

        with monkeypatch.context() as patched, broker.connect(topology) as connection:
            patched.setattr(fired_moment, "read_moment", read_while_due)
            fired_moments(connection, topology)
        assert moments == [datetime(2026, 2, 1, tzinfo=UTC)]
        assert published(topology) == []
        assert "perhaps `feedbus status` was stopped" in caplog.text
        clock.set("2026-02-01T01:30:02Z")
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]


def test_a_moment_whose_queue_is_deleted_meanwhile_is_not_taken_for_written(topology):
    moment = datetime(2026, 2, 1, tzinfo=UTC)
    with broker.connect(topology) as connection:
        channel = connection.channel()
        fired = FiredMoment(channel, topology, topology.schedules["nightly"])
        channel.queue_delete(Names(topology).schedule("nightly"))
        with pytest.raises(BrokerOutage, match="was deleted while feedbus wrote to it"):
            fired.write(moment)
        FiredMoment(channel, topology, topology.schedules["nightly"]).write(moment)
        assert fired_moments(connection, topology) == {"nightly": moment}


def test_the_thread_of_a_host_fires_by_the_machines_clock(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    text = STOCKTAKING.replace("30 2 * * *", "* * * * * *")
    topology = topology_of(tmp_path, text)
    metrics = Metrics.none()
    with LiveBus(topology, metrics) as bus, Scheduler(topology, bus, metrics) as scheduler:
        while metrics.value("feedbus_schedule_fired_total", "nightly") < 2:
            assert scheduler._thread.is_alive()
            scheduler._over.wait(0.05)
    assert not scheduler._thread.is_alive()
    found = published(topology)
    assert len(found) >= 2
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("version", ["embedded", *versions.chosen()])
def test_the_moment_is_kept_on_every_broker_and_goes_with_its_schedule(version, tmp_path, request):
    url, management = f"sqlite:///{tmp_path}/broker.db", ""
    if version != "embedded":
        node = request.getfixturevalue("rabbitmq_nodes")(version)
        url, management = node.url, f'management = "{node.management_url}"'
    name = f"shop-{unused_name()}"
    broker_table = f'[broker]\nurl = "{url}"\n{management}\n[exchanges]'
    topology = topology_of(
        tmp_path, STOCKTAKING.replace('"shop"', f'"{name}"').replace("[exchanges]", broker_table)
    )
    bare = replace(topology, schedules={})
    topology_setup.set_up(bare)
    (change,) = make_plan(topology, None).changes
    assert (change.action, change.kind, change.name) == ("create", "schedule", "nightly")
    assert change.reason.startswith("'30 2 * * *' in Europe/Berlin, to orders; its next moment is")
    assert re.search(r"T02:30:00\+0[12]:00$", change.reason)  # in the time zone of the schedule
    topology_setup.set_up(topology)
    assert make_plan(topology, None).empty
    clock = Wall("2026-02-01T00:00Z")
    with host(topology, clock) as one, host(topology, clock) as other:
        one.fire_due()
        clock.set("2026-02-01T01:30:00Z")
        other.fire_due()
        one.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]
    shown = CliRunner().invoke(main, ["--topology", str(topology.path), "status", "--json"])
    assert json.loads(shown.output)["schedules"]["nightly"]["last"] == "2026-02-01T02:30:00+01:00"
    table = CliRunner().invoke(main, ["--topology", str(topology.path), "status"]).output
    assert "nightly   30 2 * * *" in table
    topology.path.write_text(topology.path.read_text().partition("[schedules")[0])
    (change,) = make_plan(bare, None).changes
    assert (change.action, change.kind, change.name) == ("delete", "schedule", "nightly")
    done = CliRunner().invoke(main, ["--topology", str(topology.path), "apply"])
    assert done.exit_code == 0, done.output
    assert make_plan(bare, None).empty
    with broker.connect(topology) as connection:
        assert not broker.queue_exists(connection, Names(topology).schedule("nightly"))


def test_a_broker_that_is_away_loses_nothing(topology):
    clock = Wall("2026-02-01T00:00Z")
    away = replace(topology, broker_url=parse_broker_url("amqp://guest:guest@127.0.0.1:9//"))
    shown = gather(away)["schedules"]["nightly"]
    assert (shown["last"], shown["last_known"]) == (None, False)
    with host(topology, clock) as scheduler:
        scheduler.fire_due()
        clock.set("2026-02-01T01:30:00Z")
        scheduler._topology = away
        with pytest.raises(Outage):
            scheduler.fire_due()
        scheduler._topology = topology
        scheduler.fire_due()
    assert published(topology) == ["nightly@2026-02-01T01:30:00Z"]


def test_changed_schedules_restart_the_operations_process_alone(tmp_path):
    topology = replace(topology_of(tmp_path), operations=Operations())
    changed = {"nightly": replace(topology.schedule("nightly"), cron="0 3 * * *")}
    found = AppliedSettings.of(topology).difference(
        AppliedSettings.of(replace(topology, schedules=changed)), 1, {}
    )
    assert [*found.restarted] == ["operations"]
    assert found.schedules == ("nightly",)


def test_a_plan_shows_a_changed_schedule_with_its_next_moment(topology):
    topology_setup.set_up(topology)
    watchers = Watchers(supervisor_pid=1, schedules=("nightly",))
    (change,) = make_plan(topology, watchers).changes
    assert (change.action, change.kind, change.name) == ("change", "schedule", "nightly")
    assert re.fullmatch(
        r"now '30 2 \* \* \*' in Europe/Berlin, to orders; its next moment is"
        r" \d{4}-\d\d-\d\dT02:30:00\+0[12]:00",
        change.reason,
    )


def test_a_test_system_fires_a_schedule_when_it_is_asked_to(tmp_path):
    topology = topology_of(tmp_path, STOCKTAKING + 'headers = { source = "cron" }')
    with TestSystem(topology, now=datetime(2026, 1, 31, 12, tzinfo=UTC)) as system:
        system.run()
        assert system.published() == []
        system.fire("nightly")
        system.fire("nightly")
        system.run()
        assert [each.message_id for each in system.published("orders")] == [
            "shop.nightly@2026-02-01T01:30:00Z", "shop.nightly@2026-02-02T01:30:00Z",
        ]  # fmt: skip
        assert [each.options for each in system.published()] == [
            {"headers": {"source": "cron"}}
        ] * 2
        assert len(system.handled("count")) == 2
        assert system.clock.now() == datetime(2026, 2, 2, 1, 30, tzinfo=UTC)
        with pytest.raises(UsageError, match="no schedule named 'night'; expected one of nightly"):
            system.fire("night")
