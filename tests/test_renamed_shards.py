"""A queue with shards and `once = true` that is renamed: each record has its effect once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.runner.queue_reader import QueueReader
from feedbus.topology import Queue
from tests.applying import Killed
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on_either_broker
from tests.systems import System, publish_confirmed

make = systems_on_either_broker()


def renamed(**options: Any) -> Queue:
    return replace(sharded(2, once=True, **options), name="renamed")


def run_all(system: System) -> None:
    for name in (*system.topology.consumers, *system.topology.consumers):
        system.run(system.note, name)


@pytest.mark.parametrize("order_by", [True, False])
def test_a_record_that_was_handled_under_the_earlier_name_is_not_handled_again(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch, *, order_by: bool
) -> None:
    before = make(sharded(2, once=True, order_by=order_by))
    before.publish([1], "ring", "k")

    def end(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(QueueReader, "settle_up_to", end)
        for name in before.topology.consumers:
            with suppress(Killed):
                before.run(before.note, name)
    assert before.seen == [1]
    before.publish([2], "ring", "k")
    after = before.reshaped(renamed(order_by=order_by))
    after.publish([3], "ring", "k")
    run_all(after)
    assert after.seen == [1, 2, 3]


def test_a_new_message_that_equals_a_record_of_the_earlier_name_is_handled(
    make: Callable[..., System],
) -> None:
    before = make(sharded(1, once=True))
    publish_without_id(before, 1)
    before.run(before.note, "shard_0")
    publish_without_id(before, 1)
    after = before.reshaped(replace(sharded(1, once=True), name="renamed"))
    after.run(after.note, "renamed_0")
    assert after.seen == [1, 1]


def publish_without_id(system: System, number: int) -> None:
    """Publish as a program that sets no message id, so that feedbus derives one from the body."""
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        message = channel.prepare_message(
            b'{"n": %d}' % number, content_type="application/json", properties={"delivery_mode": 2}
        )
        publish_confirmed(channel, message, Names(system.topology).exchange("ring"), "k")
        channel.close()
