"""A running system whose shards change, or whose change is interrupted or refused."""

from __future__ import annotations

import os
import time

from feedbus.broker import inventory
from tests.projects import (
    PATIENCE_SECONDS,
)
from tests.resharded_project import (  # noqa: F401 -- fixtures
    KEYS,
    System,
    embedded_system,
    system_on_each_broker,
)


def test_shards_come_and_go_while_messages_come_and_untouched_watchers_keep_running(
    on_each: System,
) -> None:
    system = on_each
    topology = system.write(3)
    system.feedbus("up", "--detach")
    first = system.pids()
    with system.publishing(topology):
        system.write(5)
        assert "3 shards become 5" in system.feedbus("plan", "--check", code=1)
        reported = system.feedbus("apply")
        assert "\napplied\n" in reported  # progress of a slow machine may follow on stderr
        second = system.pids()
        assert set(second) - set(first) == {"feed_3", "feed_4"}
        system.write(2)
        system.feedbus("apply")
        third = system.pids()
        assert "nothing to change" in system.feedbus("plan", "--check")
    assert {name: second[name] for name in first} == first
    assert third == {name: first[name] for name in third}
    assert set(third) == {"feed_0", "feed_1", "mail", "clock"}
    system.check()


def test_an_apply_that_is_killed_beside_a_running_system_is_ended_by_the_next(
    system: System,
) -> None:
    topology = system.write(2)
    system.feedbus("up", "--detach")
    with system.publishing(topology):
        for number, step in enumerate(("paused", "followed", "drained", "finished"), start=3):
            system.write(number, f"max_length = {number}000_000")
            system.feedbus("apply", "--yes", code=99, FEEDBUS_EXIT_AT=step)
            system.feedbus("apply", "--yes")
            assert "nothing to change" in system.feedbus("plan", "--check")
    assert {name for name in system.pids() if name.startswith("feed")} == {
        f"feed_{shard}" for shard in range(6)
    }
    system.check()


def test_a_topology_that_is_wrong_changes_nothing_not_even_for_processes_that_start_again(
    system: System,
) -> None:
    system.write(2)
    system.feedbus("up", "--detach")
    first = system.pids()
    path = system.root / "topology.toml"
    path.write_text(path.read_text().replace("handle:mail", "handle:male").replace("= 2", "= 5"))
    assert "male" in system.feedbus("apply", code=1)
    os.kill(first["mail"], 9)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        system.write(2)  # only so that status can be asked
        now = system.status()["mail"]
        path.write_text(path.read_text().replace("handle:mail", "handle:male"))
        if now["state"] == "running" and now["processes"][0]["pid"] != first["mail"]:
            break
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now["restarts"] == 1
    system.write(2)
    assert "nothing to change" in system.feedbus("plan", "--check")


def test_without_a_supervisor_apply_switches_and_says_who_drains(system: System) -> None:
    topology = system.write(2)
    system.feedbus("apply")
    with system.publishing(topology):
        time.sleep(0.2)
    system.write(3)
    reported = system.feedbus("apply")
    switched = (
        "switched; the consumers drain the queues of the old generation when you start them with"
    )
    assert switched in reported
    system.feedbus("up", "--detach")
    system.check()


def test_a_removed_queue_that_nobody_reads_is_refused_and_named_is_gone(system: System) -> None:
    extra = '[queues.extra]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:mail"\n'
    system.write(2, extra)
    system.feedbus("apply")
    system.feedbus("publish", "mail", "--key", "x", "--json", '{"key": "x", "n": 1}')
    system.write(3)
    reported = system.feedbus("apply", code=1)
    assert f"{system.name}.extra: messages: 1" in reported
    assert "--delete-nonempty extra" in reported
    assert "2 shards become 3" in system.feedbus("plan")
    system.feedbus("apply", "--delete-nonempty", "extra")
    assert "nothing to change" in system.feedbus("plan", "--check")
    assert f"{system.name}.extra" not in inventory.read_inventory(system.write(3)).queues
