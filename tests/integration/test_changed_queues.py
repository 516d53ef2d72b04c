"""A running system whose queues are replaced, renamed, added and removed."""

from __future__ import annotations

import re

from feedbus.broker import inventory
from feedbus.bus import LiveBus
from tests.projects import (
    wait_until,
)
from tests.resharded_project import (  # noqa: F401 -- fixtures
    KEYS,
    System,
    system_on_each_broker,
)


def test_a_queue_is_replaced_another_added_and_one_removed_while_messages_come(
    on_each: System,
) -> None:
    system = on_each
    extra = '[queues.extra]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:mail"\n'
    topology = system.write(2, extra)
    system.feedbus("up", "--detach")
    first = system.pids()
    with system.publishing(topology):
        more = extra.replace("extra", "other")
        changed = system.write(2, f"max_length = 100_000\n{more}")
        plan = system.feedbus("plan")
        assert re.search(
            rf"~ queue +{system.name}\.mail +x-max-length: not set -> 100000; replaced by a",
            plan,
        )
        assert re.search(
            rf"- queue +{system.name}\.extra +no longer in the topology; it is empty", plan
        )
        assert re.search(r"\+ consumer +other", plan)
        system.feedbus("apply")
        second = system.pids()
        found = inventory.read_inventory(changed)
    assert found.queues[f"{system.name}.mail"].arguments["x-max-length"] == 100_000
    assert f"{system.name}.extra" not in found.queues
    assert {name for name in first if second.get(name) != first[name]} == {"mail", "extra"}
    assert set(second) == {"feed_0", "feed_1", "mail", "other", "clock"}
    system.check()
    assert "nothing to change" in system.feedbus("plan", "--check")


def test_a_queue_that_is_renamed_with_a_backlog_hands_over_without_a_loss(on_each: System) -> None:
    system = on_each
    extra = '[queues.one]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:slow"\n'
    topology = system.write(1, f"{extra}processes = 2\n")
    system.feedbus("up", "--detach")
    with LiveBus(topology) as bus:
        bus.publish_many("mail", [({"key": "x", "n": n}, "x") for n in range(30)])
    renamed = system.write(1, extra.replace("one", "uno"))
    reported = system.feedbus("apply")
    assert f"{system.name}.one was deleted\n" in reported
    assert "\napplied\n" in reported
    assert sorted(system.seen()["x"]) == [*range(30)]
    with LiveBus(renamed) as bus:
        bus.publish("mail", {"key": "x", "n": 30}, "x")
    wait_until(lambda: sorted(system.seen()["x"]) == [*range(31)])
    assert "nothing to change" in system.feedbus("plan", "--check")
    assert "one" not in system.status()


def test_up_and_status_report_a_renamed_queue_that_nobody_reads_and_their_advice_empties_it(
    on_each: System,
) -> None:
    system = on_each
    old = '[queues.one]\nexchange = "mail"\nrouting_keys = ["x"]\nhandler = "handle:late"\n'
    new = old.replace("one", "uno")
    topology = system.write(1, old)
    system.feedbus("apply")
    with LiveBus(topology) as bus:
        bus.publish("mail", {"key": "x", "n": 0}, "x")
    system.write(1, new)
    reported = system.feedbus("up", "--detach")
    assert (
        f"queue {system.name}.one (1 message): no longer in the topology; no consumer" in reported
    )
    note = f"queue {system.name}.one (1 message) is not in the topology, and no consumer reads it:"
    assert note in system.feedbus("status")
    aside = old.replace('"mail"', '"aside"').replace('"x"', '""')
    system.write(1, f'{new}{aside}[exchanges.aside]\ntype = "direct"\n')
    system.feedbus("apply")
    system.write(1, new)
    assert f"{system.name}.one was deleted\n" in system.feedbus("apply")
    assert system.seen()["x"] == [0]
    assert f"{system.name}.one" not in system.feedbus("status")
    assert "nothing to change" in system.feedbus("plan", "--check")
