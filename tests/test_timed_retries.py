"""Retries after a time that the handler chooses: few queues, correct counts, none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import inventory, timer
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.cli.status import gather
from feedbus.errors import Retry
from feedbus.generations.topology_setup import set_up
from feedbus.plan.planning import make_plan
from feedbus.store.peewee import close_bound
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", "rabbitmq")


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Callable[..., System]]:
    """Make systems on the embedded broker."""
    yield partial(System.at, tmp_path)
    close_bound()


def test_sixty_times_take_a_bounded_number_of_queues(embedded: Callable[..., System]) -> None:
    system = embedded(queue())

    def later(message: dict[str, Any], _bus: Bus) -> None:
        raise Retry(after_seconds=30 + message["n"] / 61)

    system.publish(range(60))
    system.run(later)
    names = Names(system.topology)
    seen = inventory.read_inventory(system.topology).queues
    waiting = {name: one.ready for name, one in seen.items() if names.is_of_timer(name)}
    assert sum(waiting.values()) == 60
    assert {name for name, ready in waiting.items() if ready} == {names.timer_queue(3, 7)}
    assert len(waiting) <= 3 * 15 + 1
    assert not [name for name in seen if ".retry." in name and seen[name].messages]
    assert gather(system.topology)["broker"]["delayed"] == {"waiting": 60, "undelivered": 0}
    assert make_plan(system.topology, None).empty


@pytest.mark.parametrize(
    ("wait", "error", "text"),
    [
        ("1 hour", TypeError, "expected a number of seconds, got '1 hour' of type str"),
        (True, TypeError, "expected a number of seconds, got True of type bool"),
        (-1, ValueError, "expected 0 to 31622400, got -1"),
        (float("nan"), ValueError, "expected 0 to 31622400, got nan"),
        (367 * 86_400, ValueError, "expected 0 to 31622400, got 31708800"),
    ],
)
def test_a_wait_that_is_no_time_is_refused(wait: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        Retry(after_seconds=wait)
    assert str(raised.value) == f"after_seconds: {text}"


def test_a_retry_comes_back_with_its_key_and_to_its_own_queue_alone(
    make: Callable[..., System],
) -> None:
    system = make(queue(), queue("twin"))

    def once(message: dict[str, Any], _bus: Bus) -> None:
        system.note(message)
        if len(system.seen) == 1:
            raise Retry(after_seconds=0.033)

    system.publish([1])
    system.run(once, idle_seconds=1.5)
    assert system.seen == [1, 1]
    with broker.connect(system.topology) as connection:
        names = Names(system.topology)
        assert timer.count_delayed(connection, names) == timer.DelayedCounts(0, 0)
        assert broker.count_messages(connection, f"{system.topology.name}.twin") == 1


def test_a_retry_whose_queue_is_gone_when_it_is_due_is_counted_and_sent_on_by_apply(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    def later(_message: dict[str, Any], _bus: Bus) -> None:
        raise Retry(after_seconds=3)

    system.publish([1])
    system.run(later, max_messages=1)
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        channel.queue_delete(f"{system.topology.name}.work")
        wait_until(lambda: timer.count_delayed(connection, names).undelivered == 1)
    found = gather(system.topology)["broker"]["delayed"]
    assert found == {"waiting": 0, "undelivered": 1}
    set_up(system.topology)
    assert gather(system.topology)["broker"]["delayed"] == {"waiting": 0, "undelivered": 0}
    system.run(system.note)
    assert system.seen == [1]
