"""The ids of a handler's messages: which messages are repeated, and which are different."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import UsageError
from feedbus.records import Records
from feedbus.store.peewee import bound
from tests.small_topologies import BATCH, queue
from tests.system_fixtures import systems_on_either_broker
from tests.systems import System, publish_confirmed, publishing

make = systems_on_either_broker()


class Color(str, Enum):  # noqa: UP042 -- str() of a member of a StrEnum is its value
    RED = "red"


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_the_messages_of_two_queues_for_one_record_are_different(
    make: Callable[..., System], batch: bool
) -> None:
    options: dict[str, Any] = {"batch": BATCH} if batch else {}
    system = make(
        queue(**options),
        queue("second", exchange="work", **options),
        queue("next", exchange="other", routing_keys=("n",), once=True),
    )
    system.publish([1])

    def publish_each(records: Records, _bus: Bus) -> None:
        records.publish("other", key="n", columns={"n": "n"})

    for name in ("work", "second"):
        system.run(publish_each if batch else publishing(system), name, batch=batch)
    system.seen.clear()
    system.run(system.note, "next")
    assert system.seen == [1, 1]


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_the_messages_of_two_projects_for_one_record_are_different(
    make: Callable[..., System], batch: bool
) -> None:
    def publish_each(records: Records, _bus: Bus) -> None:
        records.publish("other", key="n", columns={"n": "n"})

    ids = []
    for _ in range(2):  # each system is a project with another name
        system = make(
            queue(**({"batch": BATCH} if batch else {})),
            queue("next", exchange="other", routing_keys=("n",)),
        )
        with system.bus() as bus:
            bus.publish("work", {"n": 1}, message_id="the-same")
        system.run(publish_each if batch else publishing(system), batch=batch)
        with broker.connect(system.topology) as connection:
            name = Names(system.topology).queue(system.topology.consumer("next"))
            ids.append(connection.default_channel.basic_get(name).properties["message_id"])
    assert len(set(ids)) == 2


def test_a_message_id_with_nul_is_replaced_or_refused(make: Callable[..., System]) -> None:
    system = make(queue(once=True))
    with broker.connect(system.topology) as connection:
        channel: Any = connection.default_channel
        for number, message_id in enumerate(("a\0b", "a\0c", "plain")):
            message = channel.prepare_message(
                json.dumps({"n": number}).encode(), properties={"message_id": message_id}
            )
            publish_confirmed(channel, message, Names(system.topology).exchange("work"), "")
    with system.bus() as bus, pytest.raises(UsageError, match="without NUL"):
        bus.publish("work", {"n": 3}, message_id="a\0d")
    system.run(system.note)
    assert sorted(system.seen) == [0, 1, 2]


@pytest.mark.parametrize(
    ("verdict", "numbers", "once"),
    [("retry", [1], False), ("retry", [1, 2], True), ("reject", [1, 2], True)],
)
def test_messages_for_a_record_that_gets_a_verdict_have_other_ids_in_the_next_run(
    make: Callable[..., System], verdict: str, numbers: list[int], once: bool
) -> None:
    system = make(
        queue(once=once, batch=BATCH),
        queue("next", exchange="other", routing_keys=("n",), once=True),
    )
    if once:  # then the handler gets one record less than the batch has
        with system.bus() as bus:
            bus.publish("work", {"n": 0}, message_id="handled")
        with bound().transaction():
            bound().inbox.add_new("work", ["handled"])
    system.publish(numbers)
    runs = []

    def handle(records: Records, _bus: Bus) -> None:
        for each in records.singles():
            if each[0]["n"] == 1:
                runs.append(len(runs))
                each.publish("other", key="n", shared={"n": 100 + runs[-1]})
                if len(runs) < 3:
                    getattr(each, verdict)("not yet")

    for _ in range(3 if verdict == "reject" else 1):
        system.run(handle, batch=True)
        with Requeue(system.topology, system.topology.queues["work"]) as requeue:
            for letter in system.dead():
                requeue.send(letter)
        system.purge_dead()
    system.run(system.note, "next")
    assert sorted(system.seen) == [100, 101, 102]


def test_messages_have_the_same_ids_if_none_was_sent_for_the_failed_record(
    tmp_path: Path,
) -> None:
    following = queue("next", exchange="other", routing_keys=("n",))
    system = System.at(tmp_path, queue(batch=BATCH), following, stored=False)
    verdicts, ids = ["not yet"], []

    def handle(records: Records, _bus: Bus) -> None:
        if verdicts:
            records.retry(verdicts.pop())
        else:
            records.publish("other", key="n", columns={"n": "n"})

    for _ in range(2):  # in the first round, the record is handled twice
        with system.bus() as bus:
            bus.publish("work", {"n": 1}, message_id="m")
        system.run(handle, batch=True)
        with broker.connect(system.topology) as connection:
            name = Names(system.topology).queue(system.topology.consumer("next"))
            message = connection.default_channel.basic_get(name, no_ack=True)
            ids.append(message.properties["message_id"])
    assert ids[0] == ids[1]


def test_a_member_of_an_enum_gives_the_ids_that_its_value_gives(tmp_path: Path) -> None:
    following = queue("next", exchange="other", routing_keys=("red",))
    system = System.at(tmp_path, queue(), following, stored=False)
    keys, ids = [Color.RED, "red"], []

    def handle(_message: dict[str, int], bus: Bus) -> None:
        key = keys.pop()
        bus.publish("other", {"n": 1}, key)
        bus.publish("other", {"n": 2}, key, priority=1)

    name = Names(system.topology).queue(system.topology.consumer("next"))
    for _ in range(2):
        with system.bus() as bus:
            bus.publish("work", {"n": 1}, message_id="m")
        system.run(handle)
        with broker.connect(system.topology) as connection:
            channel: Any = connection.default_channel
            messages = [channel.basic_get(name, no_ack=True) for _ in range(2)]
            ids.append([message.properties["message_id"] for message in messages])
    assert ids[0] == ids[1]
