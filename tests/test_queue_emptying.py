"""Emptying a queue, on every broker: after an interrupted move, the rest is still in the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.errors import BrokerOutage
from feedbus.generations import queue_emptying
from feedbus.generations.probes import NEEDED_PROBES
from feedbus.generations.queue_emptying import QueueEmptier
from feedbus.wire import Outgoing
from servers import versions
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

FOUR = [b"1", b"2", b"3", b"4"]


make = systems_on("embedded", versions.chosen()[-1])


@pytest.mark.parametrize("moved_before", [0, 2])
@pytest.mark.parametrize("way", ["move_all", "delete"])
def test_an_interrupted_move_leaves_what_it_has_not_moved_in_the_queue(
    make: Callable[..., System], way: str, moved_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_emptying, "MAX_AT_ONCE", 2)
    topology = make(queue()).topology
    name, moved = f"{topology.name}.work", list[bytes]()

    def move(messages: Sequence[Any]) -> None:
        if len(moved) == moved_before:
            raise BrokerOutage
        moved.extend(_body(each) for each in messages)

    def empty(emptying: QueueEmptier) -> None:
        if way == "move_all":
            emptying.move_all()
        else:
            emptying.delete(0.0)

    with broker.connect(topology) as connection:
        messages = [
            Outgoing("", name, body, "text/plain", "", content_encoding=None, stamp=None)
            for body in FOUR
        ]
        assert publish_all(connection, messages) == []
        with (
            pytest.raises(BrokerOutage),
            QueueEmptier(connection, name, move) as emptying,
        ):
            empty(emptying)
    assert moved == FOUR[:moved_before]
    with broker.connect(topology) as connection:
        wait_until(lambda: broker.count_messages(connection, name) == len(FOUR) - moved_before)
        channel = connection.channel()
        left = [_body(channel.basic_get(name, no_ack=True)) for _ in FOUR[moved_before:]]
    assert left == FOUR[moved_before:]


@pytest.mark.parametrize("way", ["move_all", "delete"])
def test_messages_that_are_still_on_their_way_are_moved_too(
    make: Callable[..., System], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = make(queue()).topology
    name, moved = f"{topology.name}.work", list[bytes]()
    drain, calls = QueueEmptier._drain, list[None]()

    def drain_late(emptier: QueueEmptier) -> bool:
        calls.append(None)
        return len(calls) > NEEDED_PROBES and drain(emptier)

    monkeypatch.setattr(QueueEmptier, "_drain", drain_late)
    with broker.connect(topology) as connection:
        messages = [
            Outgoing("", name, body, "text/plain", "", content_encoding=None, stamp=None)
            for body in FOUR
        ]
        assert publish_all(connection, messages) == []

        def move(some: Sequence[Any]) -> None:
            moved.extend(_body(each) for each in some)

        with QueueEmptier(connection, name, move) as emptier:
            if way == "move_all":
                emptier.move_all()
            else:
                assert emptier.delete(0.0) == ""
        assert moved == FOUR
        assert broker.count_messages(connection, name) == (0 if way == "move_all" else None)


def _body(message: Any) -> bytes:
    return message.body if isinstance(message.body, bytes) else message.body.encode()
