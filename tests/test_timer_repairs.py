"""What `plan` finds of the timer that is not as feedbus declares it, and `apply` repairs."""

from __future__ import annotations

from collections.abc import Callable

from feedbus import broker
from feedbus.broker import lookups, queue_arguments, timer
from feedbus.broker_names import Names
from servers import versions
from tests.applying import (
    carry_out,
    nothing_to_do,
)
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)


def with_delayed_message(make: Callable[..., System]) -> System:
    """Make a system with a message that the timer delays."""
    system = make(queue())
    with system.bus() as bus:
        bus.publish("work", {"n": 1}, delay="2h")
    return system


def test_plan_finds_what_of_the_timer_is_not_as_it_should_be_and_apply_mends_it(
    make: Callable[..., System],
) -> None:
    system = with_delayed_message(make)
    names = Names(system.topology)
    assert nothing_to_do(system.topology)
    wrong, missing = names.timer_queue(4, 3), names.timer_queue(4, 5)
    guard = names.timer_guard("removed")
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        channel.queue_delete(missing)
        channel.queue_delete(wrong)
        arguments = queue_arguments.auxiliary_arguments({"x-message-ttl": 7_000}, quorum=True)
        channel.queue_declare(wrong, durable=True, auto_delete=False, arguments=arguments)
        channel.exchange_declare(guard, "direct", durable=True, auto_delete=False)
        plan, done, _ = carry_out(system.topology)
        assert done
        changes = {(each.action, each.name): each.reason for each in plan.changes}
        assert set(changes) == {("create", missing), ("delete", wrong), ("delete", guard)}
        assert "x-message-ttl: 7000 -> 196608" in changes["delete", wrong]
        assert nothing_to_do(system.topology)
        assert not lookups.exchange_exists(connection, guard)
        assert timer.count_delayed(connection, names) == timer.DelayedCounts(1, 0)
        # Their place waits again until they are on the broker's disk.
        assert not lookups.exchange_exists(connection, names.timer_written(4))


def test_plan_finds_what_bindings_of_the_timer_are_missing_or_foreign_and_apply_mends_them(
    make: Callable[..., System],
) -> None:
    system = with_delayed_message(make)
    names = Names(system.topology)
    place, below = names.timer_position(4), names.timer_position(3)
    three, five = names.timer_queue(4, 3), names.timer_queue(4, 5)
    guard, work = names.timer_guard("work"), names.exchange("work")
    header = {"x-match": "all", "feedbus-timer-4": "3"}
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        channel.queue_unbind(three, place, "", arguments=header)
        channel.queue_bind(five, place, "", arguments=header)
        channel.exchange_unbind(
            below, place, "", arguments={"x-match": "all", "feedbus-timer-4": "0"}
        )
        channel.exchange_unbind(work, guard, "")
        channel.queue_bind(names.queue(system.topology.consumer("work")), names.timer_due, "")
        plan, done, _ = carry_out(system.topology)
        assert done
        changes = {(each.action, each.name): each.reason for each in plan.changes}
        assert changes == {
            ("create", three): f"missing; it brings delayed messages from {place}",
            ("create", below): f"missing; it brings delayed messages from {place}",
            ("create", work): f"missing; it brings delayed messages from {guard}",
            (
                "delete",
                five,
            ): "not declared by feedbus; with this binding,"
            f" delayed messages of {place} arrive twice",
            ("delete", names.queue(system.topology.consumer("work"))): "not declared by feedbus;"
            f" with this binding, delayed messages of {names.timer_due} arrive twice",
        }
        assert {each.kind for each in plan.changes} == {"binding"}
    assert nothing_to_do(system.topology)
