"""Two consumers of one old queue: the last one deletes it, on every broker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.runner.queue_reader import QueueReader
from servers import versions
from tests.ordered_queues import ORDERED
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.ring_switches import publish, state
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", versions.chosen()[-1])


def test_a_consumer_leaves_an_old_queue_to_one_that_subscribes_after_its_first_probe(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(sharded(1, **ORDERED))
    old = Names(before.topology).member(state(before).current, "shard_0")
    publish(before, 1)
    after = before.reshaped(sharded(2, **ORDERED))
    accept, fences = QueueReader.accept_fence, list[Any]()
    probed, subscribed = threading.Event(), threading.Event()

    def accept_beside_another(reader: QueueReader, tag: int, message_id: str) -> None:
        accept(reader, tag, message_id)
        if reader.queue == old:
            probed.set()
            subscribed.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(QueueReader, "accept_fence", accept_beside_another)
    with (
        broker.connect(after.topology) as connection,
        after.running(after.note, "shard_0"),
    ):
        assert probed.wait(PATIENCE_SECONDS)
        channel = connection.channel()
        channel.basic_consume(old, callback=fences.append)
        subscribed.set()
        wait_until(lambda: received(connection, fences))
        channel.close()
        wait_until(lambda: not broker.queue_exists(connection, old))
    assert after.seen == [1]


def received(connection: Any, messages: list[Any]) -> bool:
    """Whether a message has arrived."""
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    return bool(messages)
