"""While a handler publishes very many messages, small deliveries of other keys are handled."""

from __future__ import annotations

import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feedbus import Bus, Records, Retry, broker
from feedbus.broker.refused_messages import Refusal
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.dispatch import handler_calls, publications
from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.store.peewee import PeeweeStore, bind, bound, close_bound
from feedbus.topology import Batch, RetryPolicy
from tests.projects import wait_until
from tests.small_topologies import queue, sharded
from tests.system_fixtures import on_broker
from tests.systems import System

SLICE, SLICES = 10, 4
RETRY_SECONDS = 0.2
LARGE = 100  # messages from this number on publish SLICES slices, the others one message


@pytest.fixture(params=["embedded", "rabbitmq"])
def make(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., System]]:
    monkeypatch.setattr(handler_calls, "STREAM_RECORDS", SLICE)
    monkeypatch.setattr(publications, "STREAM_RECORDS", SLICE)
    yield from on_broker(request.param, tmp_path, request)


class Publisher:
    """A system whose handler publishes in slices; it records when its calls begin and end."""

    def __init__(self, make: Callable[..., System], **options: Any) -> None:
        settings = {"stream": True, "order_by": "text", "batch": Batch(1, 0.0), "prefetch": 50}
        self.system = make(
            queue(**{**settings, **options}),
            queue("next", exchange="other", routing_keys=("n",), batch=Batch(1000, 0.0)),
        )
        self.calls: list[str] = []

    def publish(self, *messages: tuple[str, int]) -> None:
        with self.system.bus() as bus:
            bus.publish_many("work", [({"n": n, "text": author}, "") for author, n in messages])

    def handle(self, records: Records, _bus: Bus) -> None:
        numbers = "+".join(map(str, records.column("n")))
        self.calls.append(f"{numbers} begins")
        for record in records.singles():
            self.publish_slices(record)
        self.calls.append(f"{numbers} ends")

    def publish_slices(self, record: Records) -> None:
        number = record.first["n"]
        if number < LARGE:
            record.publish("other", key="n", columns={"n": "n"})
            return
        for _ in range(SLICES):
            record.publish_columns("other", {"n": [number] * SLICE}, key="n")

    def run(self, handle: Callable[[Any, Any], None] | None = None, **options: Any) -> str:
        return self.system.run(handle or self.handle, batch=True, **options)

    def await_retry(self) -> None:
        """Wait until the retry of a failed message is due, and the broker has delivered it."""
        topology = self.system.topology
        names = Names(topology)
        waiting = names.waiting(names.queue(topology.consumer("work")))
        if broker.has_many_hosts(topology):  # RabbitMQ; the embedded broker delivers when asked
            with broker.connect(topology) as connection:
                wait_until(lambda: broker.count_messages(connection, waiting) == 0)
        time.sleep(RETRY_SECONDS)

    def published(self) -> list[int]:
        """Return the numbers of the published messages, each message once, in their order."""
        numbers: dict[str, int] = {}

        def note(records: Records, _bus: Bus) -> None:
            numbers.update(zip(records.ids, records.column("n"), strict=True))

        self.system.run(note, "next", batch=True)
        return list(numbers.values())


def test_messages_of_other_keys_are_handled_while_a_large_one_is_published(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), ("ben", 1), ("ann", 2), ("eve", 3))
    publisher.run()
    assert publisher.calls[:3] == ["100 begins", "1 begins", "1 ends"]
    assert publisher.calls.index("3 ends") < publisher.calls.index("100 ends")
    assert publisher.calls.index("100 ends") < publisher.calls.index("2 begins")
    published = publisher.published()
    assert sorted(published) == [1, 2, 3] + [100] * SLICE * SLICES
    assert published.index(1) < published.index(2)
    assert [each for each in published if each in {100, 2}][-1] == 2
    assert publisher.system.ready()["work"] == 0


def test_a_queue_without_order_by_handles_one_message_after_the_other(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make, order_by=False)
    publisher.publish(("ann", 100), ("ben", 1))
    publisher.run()
    assert publisher.calls == ["100 begins", "100 ends", "1 begins", "1 ends"]


def test_no_message_is_handled_in_a_transaction_that_the_handler_has_begun(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), ("ben", 1))

    def handle(records: Records, bus: Bus) -> None:
        with bound().transaction():
            publisher.handle(records, bus)

    publisher.run(handle)
    assert publisher.calls == ["100 begins", "100 ends", "1 begins", "1 ends"]


def test_small_messages_are_handled_between_the_slices_of_several_large_ones(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), ("ben", 101), ("ann", 102), ("eve", 1))
    publisher.run()
    begins = [each for each in publisher.calls if each.endswith("begins")]
    assert begins == ["100 begins", "101 begins", "1 begins", "102 begins"]
    assert publisher.calls.index("1 ends") < publisher.calls.index("101 ends")
    assert sorted(publisher.published()) == [1] + [
        each for each in (100, 101, 102) for _ in range(SLICE * SLICES)
    ]


def test_a_large_message_that_fails_after_some_slices_keeps_the_later_ones_of_its_key_waiting(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    failed: list[int] = []

    def handle(records: Records, bus: Bus) -> None:
        publisher.handle(records, bus)
        if 100 in records.column("n") and len(failed) < 2:
            failed.append(100)
            raise Retry

    publisher.publish(("ann", 100), ("ben", 1), ("ann", 2))
    publisher.run(handle)
    assert len(failed) == 2
    assert publisher.calls.index("1 ends") < publisher.calls.index("100 ends")
    assert publisher.calls[-4:] == ["100 begins", "100 ends", "2 begins", "2 ends"]
    assert sorted(publisher.published()) == [1, 2] + [100] * SLICE * SLICES


def test_a_message_that_fails_in_a_pause_is_retried_and_disturbs_no_other(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    failed: list[int] = []

    def handle(records: Records, bus: Bus) -> None:
        publisher.handle(records, bus)
        if 1 in records.column("n") and not failed:
            failed.append(1)
            msg = "once"
            raise ValueError(msg)

    publisher.publish(("ann", 100), ("ben", 1), ("ben", 2), ("eve", 3))
    publisher.run(handle)
    assert publisher.calls.count("100 begins") == 1
    assert publisher.calls.count("1 begins") == 2
    assert publisher.calls.index("1 ends") < publisher.calls.index("2 begins")
    assert sorted(publisher.published()) == [1, 2, 3] + [100] * SLICE * SLICES


def test_a_large_message_that_is_retried_handles_all_that_has_arrived_in_its_pauses(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make, retry=RetryPolicy((RETRY_SECONDS,)))
    failed: list[int] = []

    def handle(records: Records, bus: Bus) -> None:
        numbers = records.column("n")
        if 100 in numbers and not failed:
            failed.append(100)
            raise Retry
        if 1 in numbers:
            publisher.await_retry()
        publisher.handle(records, bus)

    publisher.publish(("ann", 100), ("ben", 1), ("eve", 2))
    publisher.run(handle)
    # On a machine under load, the retry of 100 can be due before 1 is handled, too.
    assert publisher.calls[-1] == "100 ends"
    assert publisher.calls.index("100 begins") < publisher.calls.index("2 begins")
    assert sorted(publisher.published()) == [1, 2] + [100] * SLICE * SLICES


def test_messages_that_meet_an_outage_in_a_pause_are_handled_after_the_large_one(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    outages: list[int] = []

    def handle(records: Records, bus: Bus) -> None:
        if 1 in records.column("n") and not outages:
            outages.append(1)
            msg = "store: gone"
            raise StoreOutage(msg)
        publisher.handle(records, bus)

    publisher.publish(("ann", 100), ("ben", 1), ("eve", 2))
    publisher.run(handle)
    assert outages == [1]
    assert publisher.calls.count("100 begins") == 1
    assert publisher.calls.index("100 ends") < publisher.calls.index("1 begins")
    assert sorted(publisher.published()) == [1, 2] + [100] * SLICE * SLICES


def test_a_retry_that_meets_an_outage_in_a_pause_of_a_pause_stops_no_consumer(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(make, waiting_limit=1)
    failed, outages, send = list[int](), list[int](), Sender.send

    def handle(records: Records, bus: Bus) -> None:
        if 1 in records.column("n") and not failed:
            failed.append(1)
            raise Retry
        publisher.handle(records, bus)

    def lose_first_retry(sender: Sender, messages: Any) -> list[Refusal]:
        messages = list(messages)
        if not outages and any(message.counted_as == "retry" for message in messages):
            outages.append(1)
            msg = "the connection was lost before the retry was sent"
            raise BrokerOutage(msg)
        return send(sender, messages)

    monkeypatch.setattr(Sender, "send", lose_first_retry)
    publisher.publish(("ann", 100), ("ben", 101), ("eve", 1))
    publisher.run(handle, idle_seconds=3.0)
    large = SLICE * SLICES
    assert sorted(publisher.published()) == [1] + [100] * large + [101] * large
    assert publisher.system.ready()["work"] == 0
    assert (failed, outages) == ([1], [1])


@pytest.mark.parametrize("make", ["rabbitmq"], indirect=True)
def test_a_connection_that_is_lost_in_a_pause_loses_no_message_and_raises_in_no_handler(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    lost: list[int] = []

    def handle(records: Records, bus: Bus) -> None:
        if 1 in records.column("n") and not lost:
            lost.append(1)
            for reading in runner._subscriptions.readers.values():
                reading.channel.connection.transport.sock.shutdown(socket.SHUT_RDWR)
        publisher.handle(records, bus)
        if publisher.calls[-1] == "2 ends":
            runner.stop()

    publisher.publish(("ann", 100), ("ben", 1), ("ann", 2))
    with publisher.system._runner(handle, "work", True, None, {}) as runner:
        runner.run()
    assert publisher.calls.count("100 begins") == publisher.calls.count("100 ends") == 2
    assert sorted(publisher.published()) == [1, 2] + [100] * SLICE * SLICES
    assert publisher.system.ready()["work"] == 0


def test_a_run_that_is_stopped_finishes_the_large_message_and_begins_no_other(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), ("ben", 1), ("eve", 2))

    def handle(records: Records, bus: Bus) -> None:
        publisher.handle(records, bus)
        runner.stop()

    with publisher.system._runner(handle, "work", True, None, {}) as runner:
        runner.run()
    assert publisher.calls[:3] == ["100 begins", "1 begins", "1 ends"]
    assert publisher.calls[-1] == "100 ends"
    publisher.run()
    assert sorted(publisher.published()) == [1, 2] + [100] * SLICE * SLICES
    assert publisher.calls.count("100 begins") == 1


def test_a_run_handles_in_pauses_no_more_messages_than_asked_for(
    make: Callable[..., System],
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), *((f"author {number}", number) for number in range(10)))
    publisher.run(max_messages=3)
    assert publisher.system.ready()["work"] == 8
    publisher.run()
    assert sorted(publisher.published()) == [*range(10)] + [100] * SLICE * SLICES


@pytest.mark.parametrize("dies_in", [1, 100])
def test_a_process_that_is_killed_between_slices_loses_no_message_and_keeps_each_key_in_order(
    make: Callable[..., System], dies_in: int
) -> None:
    publisher = Publisher(make)
    publisher.publish(("ann", 100), ("ben", 1), ("ann", 2), ("ben", 3), ("eve", 4))

    def handle(records: Records, bus: Bus) -> None:
        publisher.handle(records, bus)
        if dies_in in records.column("n"):
            os._exit(1)

    close_bound()
    child = os.fork()
    if child == 0:
        bind(PeeweeStore(publisher.system.topology.store_url))
        publisher.run(handle)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    bind(PeeweeStore(publisher.system.topology.store_url))
    publisher.run()
    published = publisher.published()
    assert sorted(published) == [1, 2, 3, 4] + [100] * SLICE * SLICES
    assert [each for each in published if each in {100, 2}][-1] == 2
    assert published.index(1) < published.index(3)


def test_a_pack_of_a_ring_that_was_replaced_between_slices_is_sent_again_in_order(
    make: Callable[..., System],
) -> None:
    work = queue(stream=True, order_by="text", batch=Batch(1, 0.0), prefetch=50)
    system = make(work, sharded(1, batch=Batch(1000, 0.0)), pack=100)
    changed: list[System] = []

    def handle(records: Records, _bus: Bus) -> None:
        (record,) = records.singles()
        if record.first["n"] < LARGE:
            changed.append(system.reshaped(work, sharded(3, batch=Batch(1000, 0.0))))
            record.publish("ring", key="small", columns={"n": "n", "text": "text"})
            return
        for page in range(SLICES):
            numbers = [*range(page * SLICE, (page + 1) * SLICE)]
            columns = {"n": numbers, "text": [f"key {n % 5}" for n in numbers]}
            record.publish_columns("ring", columns, key_column="text")

    with system.bus() as bus:
        bus.publish("work", {"n": 100, "text": "ann"})
        bus.publish("work", {"n": 1, "text": "ben"})
    system.run(handle, batch=True)
    assert len(changed) == 1
    seen: defaultdict[str, list[int]] = defaultdict(list)

    def note(records: Records, _bus: Bus) -> None:
        for key, number in zip(records.column("text"), records.column("n"), strict=True):
            seen[key].append(number)

    for consumer in ("shard_0", "shard_1", "shard_2"):
        changed[0].run(note, consumer, batch=True)
    assert seen.pop("ben") == [1]
    assert {*seen} == {f"key {n}" for n in range(5)}
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == SLICE * SLICES
