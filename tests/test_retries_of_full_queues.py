"""Retries and delayed messages that are due while their queue is full and refuses messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.errors import UsageError
from feedbus.generations import topology_setup
from feedbus.topology import RetryPolicy
from servers import versions
from servers.rabbitmq import RabbitMQ
from tests.applying import WAITING, carry_out, nothing_to_do, wait_for_retry
from tests.projects import wait_until
from tests.small_topologies import queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)

FULL: dict[str, Any] = {"max_length": 1, "overflow": "reject-publish"}


def waiting_retries(system: System) -> int:
    """Return how many retries wait in the retry queues."""
    names = Names(system.topology)
    with broker.connect(system.topology) as connection:
        return sum(
            broker.count_messages(connection, names.retry_queue(each, delay)) or 0
            for each in system.topology.queues.values()
            for delay in each.retry.delays_milliseconds
        )


ONCE = RetryPolicy((0.5,), "dead-letter")
QUEUES = {
    "queue": queue(retry=ONCE, routing_keys=("key",), **FULL),
    "ring": sharded(1, retry=ONCE, order_by=False, **FULL),
}


@pytest.mark.parametrize("kind", QUEUES)
def test_a_retry_waits_until_its_full_queue_has_room(
    make: Callable[..., System], kind: str
) -> None:
    full = QUEUES[kind]
    system = make(full)
    (consumer,) = system.topology.consumers

    def fill_and_fail(message: dict[str, Any], _bus: Any) -> None:
        system.note(message)
        system.publish([2], full.exchange, "key")
        msg = "the first attempt fails"
        raise ValueError(msg)

    system.publish([1], full.exchange, "key")
    system.run(fill_and_fail, consumer, max_messages=1)
    wait_until(lambda: not waiting_retries(system))
    with system.running(system.note, consumer):
        wait_until(lambda: sorted(system.seen) == [1, 1, 2])


def test_a_delayed_message_waits_until_its_full_queue_has_room(make: Callable[..., System]) -> None:
    system = make(queue(**FULL))
    names = Names(system.topology)
    with system.bus() as bus:
        bus.publish("work", {"n": 1})
        bus.publish("work", {"n": 2}, delay="16ms")
    with broker.connect(system.topology) as connection:
        delayed_by = names.timer_queue(1, 1)
        wait_until(lambda: not broker.count_messages(connection, delayed_by))
    with system.running(system.note):
        wait_until(lambda: system.seen == [1, 2])


@pytest.mark.parametrize("read", [True, False], ids=["with a consumer", "without a consumer"])
def test_a_removed_retry_queue_is_kept_while_a_retry_waits_for_room(
    any_rabbitmq: RabbitMQ, tmp_path: Path, *, read: bool
) -> None:
    urls = {"broker_url": any_rabbitmq.url, "management_url": any_rabbitmq.management_url}
    system = System.at(tmp_path, queue(retry=ONCE, **FULL), **urls)
    own = f"{system.topology.name}.work"
    retry_queue = f"{own}.retry.500"
    system.publish([1])
    wait_for_retry(system.topology, 2)
    wanted = system.changed(queue(retry=WAITING, **FULL))

    def waiting() -> int:
        return inventory.read_inventory(wanted).queues[retry_queue].messages

    wait_until(lambda: not waiting_retries(system) and waiting())
    with broker.connect(wanted) as connection:
        if read:
            connection.channel().basic_consume(own, callback=lambda _: None)
            _, done, reported = carry_out(wanted)
            assert not done
            assert any("not deleted" in each for each in reported)
        else:
            with pytest.raises(UsageError, match="nothing was changed"):
                carry_out(wanted)
        assert broker.queue_exists(connection, retry_queue)
        if not read:
            connection.channel().basic_consume(own, callback=lambda _: None)
        wait_until(lambda: not waiting())
    _, done, _ = carry_out(wanted)
    assert done
    last = System(wanted)
    with last.running(last.note):
        wait_until(lambda: last.seen == [1, 2])


def retry_queue_types(system: System) -> set[Any]:
    """Return the types of the retry queues on the broker."""
    found = inventory.read_inventory(system.topology).queues
    return {
        found[Names(system.topology).retry_queue(each, delay)].arguments.get("x-queue-type")
        for each in system.topology.queues.values()
        for delay in each.retry.delays_milliseconds
    }


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_apply_replaces_retry_queues_that_would_lose_refused_retries(
    make: Callable[..., System], kind: str
) -> None:
    system = make(queue(retry=WAITING))
    wait_for_retry(system.topology, 7)
    full = queue(retry=WAITING, type=kind, **FULL)
    wanted = System(system.changed(full))
    assert retry_queue_types(system) == {"classic"}
    carry_out(wanted.topology)
    assert retry_queue_types(wanted) == {"quorum"}
    assert waiting_retries(wanted) == 1
    assert nothing_to_do(wanted.topology)
    # The quorum queues stay when the queue refuses messages no more.
    relaxed = System(wanted.changed(replace(full, overflow=None)))
    carry_out(relaxed.topology)
    assert retry_queue_types(relaxed) == {"quorum"}
    assert nothing_to_do(relaxed.topology)


def test_retry_queues_of_an_earlier_version_are_used_until_the_next_apply(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("feedbus.broker.queue_arguments.may_refuse_retries", lambda _: False)
        system = make(queue(retry=WAITING, **FULL))
    topology_setup.set_up(system.topology)
    assert retry_queue_types(system) == {"classic"}
    carry_out(system.topology)
    assert retry_queue_types(system) == {"quorum"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "classic"),
        ({"overflow": "drop-head"}, "classic"),
        ({"overflow": "reject-publish"}, "quorum"),
        ({"arguments": {"x-overflow": "reject-publish"}}, "quorum"),
        # Such a queue sends a refused retry to its dead letters.
        ({"arguments": {"x-overflow": "reject-publish-dlx"}}, "classic"),
        ({"overflow": "reject-publish", "order_by": True}, "classic"),
    ],
)
def test_only_queues_that_refuse_retries_have_quorum_retry_queues(
    make: Callable[..., System], options: dict[str, Any], expected: str
) -> None:
    system = make(queue(max_length=5, **options))
    assert retry_queue_types(system) == {expected}
