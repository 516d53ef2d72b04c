"""Messages without an id: which are repeated, and what happens once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from feedbus import Message, broker
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.bus.sender import Sender
from feedbus.errors import BrokerOutage, Retry
from feedbus.metrics import Metrics
from feedbus.records import Records
from feedbus.runner.queue_reader import QueueReader
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.peewee import bound
from tests.small_topologies import BATCH, queue
from tests.system_fixtures import systems_on_either_broker
from tests.systems import System, publish_confirmed, publishing

make = systems_on_either_broker()


def put_without_id(system: System, numbers: Sequence[int]) -> None:
    """Publish numbered messages as a foreign client that sets no message id."""
    with broker.connect(system.topology) as connection:
        channel: Any = connection.default_channel
        for number in numbers:
            message = channel.prepare_message(json.dumps({"n": number}).encode())
            publish_confirmed(channel, message, Names(system.topology).exchange("work"), "")


def test_equal_messages_without_ids_are_each_handled_on_a_queue_that_says_once(
    make: Callable[..., System],
) -> None:
    system = make(queue(once=True), queue("next", exchange="other", routing_keys=("n",)))
    put_without_id(system, [1, 1, 2])
    system.run(publishing(system))
    put_without_id(system, [1])
    system.run(publishing(system))
    assert system.seen == [1, 1, 2, 1]
    children: list[str] = []
    with broker.connect(system.topology) as connection:
        channel = connection.default_channel
        name = Names(system.topology).queue(system.topology.consumer("next"))
        while (message := channel.basic_get(name)) is not None:
            children.append(message.properties["message_id"])
    assert len(set(children)) == 4


def test_a_repeat_without_an_id_has_no_second_effect_and_is_counted(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(once=True))
    metrics = Metrics.none()
    put_without_id(system, [1])

    settle, losses = QueueReader.settle_up_to, [True]

    def lose_one(reading: QueueReader, tag: int) -> None:
        if losses:
            losses.pop()
            msg = "the connection was lost before the acknowledgement"
            raise BrokerOutage(msg)
        settle(reading, tag)

    monkeypatch.setattr(QueueReader, "settle_up_to", lose_one)
    system.run(system.note, idle_seconds=1.0, metrics=metrics)
    assert system.seen == [1]
    assert metrics.value("feedbus_taken_for_repeats_total", "work") >= 1
    assert system.ready() == {"work": 0}


def test_a_retry_without_an_id_that_is_sent_twice_has_one_effect(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(once=True))
    put_without_id(system, [1, 1, 2])
    send, outages = Sender.send, [True]

    def send_and_lose_the_confirms(sender: Sender, messages: Any) -> list[Refusal]:
        refusals = send(sender, messages)
        if outages:
            outages.pop()
            msg = "the connection was lost before the confirms"
            raise BrokerOutage(msg)
        return refusals

    def fail_first(message: dict[str, Any], _bus: Bus, about: Message) -> None:
        if about.attempt == 1:
            raise Retry
        system.note(message)

    monkeypatch.setattr(Sender, "send", send_and_lose_the_confirms)
    system.run(fail_first, idle_seconds=2.0)
    assert sorted(system.seen) == [1, 1, 2]
    assert not outages


@pytest.mark.parametrize("ordered", [False, True], ids=["without order", "in order"])
@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_message_without_an_id_has_one_effect_although_its_messages_are_refused(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch, ordered: bool, batch: bool
) -> None:
    options: dict[str, Any] = {"order_by": "n"} if ordered else {}
    if batch:
        options["batch"] = BATCH
    system = make(
        queue(once=True, **options),
        queue("next", exchange="other", routing_keys=("n",)),
    )
    numbers = [1, 1, 2, 1]
    put_without_id(system, numbers)
    send, refused = Sender.send, []

    def refuse_first(sender: Sender, messages: Any) -> list[Refusal]:
        own = [each for each in messages if each.routing_key == "n"] if len(refused) < 3 else []
        refused.extend(own)
        refusals = [Refusal(each, "nacked", "full") for each in own]
        return refusals + send(sender, [each for each in messages if each not in own])

    def publish_each(records: Records, _bus: Bus) -> None:
        for single in records.singles():
            system.note(single[0])
            single.publish("other", key="n")

    with monkeypatch.context() as patched:
        patched.setattr(Sender, "send", refuse_first)
        system.run(publish_each if batch else publishing(system), batch=batch, idle_seconds=2.0)
    assert len(refused) >= 3
    assert sorted(system.seen) == sorted(numbers)
    with system.bus() as bus:
        publish_pending(bound(), bus, system.topology.name, older_than_seconds=0.0)
    assert system.ready() == {"work": 0, "next": len(numbers)}
    assert system.dead() == []


def test_a_message_without_an_id_that_ends_its_process_is_given_up_and_the_next_one_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue())

    class Unforeseen(KeyboardInterrupt):
        """An exception that ends a process; any other exception is a failure of the message."""

    def end(message: dict[str, Any], _bus: Bus) -> None:
        if message["n"] == 1:
            raise Unforeseen
        system.note(message)

    put_without_id(system, [1, 2])
    for _ in range(5):
        with pytest.raises(Unforeseen):
            system.run(end)
    system.run(end)
    (letter,) = system.dead()
    assert (json.loads(letter.body), system.seen) == ({"n": 1}, [2])
