"""The waiting queues of a consumer, on every broker: their reader, and their limit."""

from __future__ import annotations

from typing import Any

from feedbus import broker
from feedbus.broker.declarations import declare_waiting_queue
from feedbus.broker_names import Names
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.runner import waiting_queues
from feedbus.runner.queue_reader import QueueReader
from feedbus.runner.waiting_queue import WaitingQueue
from feedbus.runner.waiting_queues import WaitingQueues
from feedbus.topology import RetryPolicy
from servers import versions
from tests.ordered_queues import (
    LATER,
    ORDERED,
    Failing,
    due_when,
    published,
    waiting_in,
    work,
)
from tests.projects import wait_until
from tests.small_topologies import sharded
from tests.system_fixtures import systems_on
from tests.systems import publish_confirmed

make = systems_on("embedded", versions.chosen()[-1])


def test_a_consumer_holds_while_too_many_wait(make, monkeypatch):
    system = make(work(waiting_limit=3, retry=LATER))
    published(system, list(range(1, 20)))
    handler, reasons = Failing({1: 1}), []
    due_when(monkeypatch, lambda: bool(reasons))
    system.run(handler.one, on_hold=reasons.append, idle_seconds=1.0)
    assert handler.seen[:2] == [2, 4]
    assert [number for number in handler.seen if number % 2] == list(range(1, 20, 2))
    assert "records wait for earlier records of their keys" in reasons[0]
    assert reasons[-1] == ""


def test_a_standby_reads_nothing_that_waits_until_the_other_is_gone(make, monkeypatch):
    system = make(work(processes=2, retry=LATER))
    published(system, [1, 2])
    first, second = Failing({1: 1}), Failing({})
    looked: list[bool] = []
    due_when(monkeypatch, lambda: bool(looked))
    name = Names(system.topology).queue(system.topology.consumer("work"))
    with system.running(first.one):
        wait_until(lambda: first.seen == [2])
        with system.running(second.one) as standby:
            published(system, [3, 4])
            wait_until(lambda: first.seen == [2, 4])
            wait_until(lambda: waiting_in(system, name) == 0)  # the first consumer has them
            assert second.seen == []
            assert standby.is_alive()
            with system.bus() as bus:
                bus.publish("work", {"n": 5}, "1")
            looked.append(True)
            wait_until(lambda: first.seen == [2, 4, 1, 3, 5])


def test_what_waits_is_taken_anew_before_the_broker_takes_it_back(make, monkeypatch):
    monkeypatch.setattr(waiting_queues, "RENEWED_SECONDS", 0.1)
    system = make(work(retry=RetryPolicy((1.0,), "dead-letter")))
    published(system)
    handler = Failing({1: 1})
    given_back = []
    real = WaitingQueue.renew

    def renew(self: WaitingQueue, older_than: float) -> None:
        given_back.append(len(self.deliveries.records))
        real(self, older_than)

    monkeypatch.setattr(WaitingQueue, "renew", renew)
    system.run(handler.one, idle_seconds=2.0)
    assert any(given_back)
    assert handler.seen == [2, 4, 6, 8, 1, 3, 5, 7]


def test_whoever_comes_when_a_queue_has_just_ended_leaves_no_waiting_queue(make, monkeypatch):
    system = make(work())
    queue_name = Names(system.topology).queue(system.topology.consumer("work"))
    real = WaitingQueue.open

    def end_first(connection: Any, *arguments: Any) -> Any:
        with broker.connect(system.topology) as other:
            other.channel().queue_delete(queue_name)
        return real(connection, *arguments)

    monkeypatch.setattr(WaitingQueue, "open", end_first)
    system.run(Failing({}).one, max_runtime_seconds=1.0)
    assert waiting_in(system, queue_name) is None


def test_no_record_is_handled_while_the_subscription_to_its_waiting_queue_is_cancelled(
    make, monkeypatch
):
    system = make(work(retry=RetryPolicy((0.1,), "dead-letter")))
    names, consumer = Names(system.topology), system.topology.consumer("work")
    waiting_queue = names.waiting(names.queue(consumer))
    published(system, [1])
    handler = Failing({1: 1})
    system.run(handler.one, max_messages=1)  # record 1 has failed, and waits
    published(system, [3])
    with broker.connect(system.topology) as other:
        channel = other.channel()
        record_1 = channel.basic_get(waiting_queue)
        channel.basic_ack(record_1.delivery_tag)
        begin, begun = QueueReader.begin, list[str]()

        def begin_after_cancel(*arguments: Any, **options: Any) -> Any:
            if not begun:
                # The broker cancels the subscription, and another consumer lets record 1 wait.
                channel.queue_delete(waiting_queue)
                declare_waiting_queue(channel, consumer.queue, waiting_queue)
                publish_confirmed(channel, again(channel, record_1), "", waiting_queue)
            begun.append(options["tag"])
            return begin(*arguments, **options)

        monkeypatch.setattr(QueueReader, "begin", begin_after_cancel)
        # 3: if record 1 is not due yet, record 3 is settled first, as a waiting record.
        system.run(handler.one, max_messages=3, idle_seconds=2.0)
    assert handler.seen == [1, 3]
    assert len(begun) > 1


def again(channel: Any, message: Any) -> Any:
    """Return a message with the body and the properties of a delivered one."""
    properties = dict(message.properties)
    headers, content_type = properties.pop("application_headers"), properties.pop("content_type")
    encoding = properties.pop("content_encoding")
    return channel.prepare_message(message.body, None, content_type, encoding, headers, properties)


def test_what_waits_in_a_queue_that_is_closed_stays_there_and_is_read_again(make):
    system = make(sharded(2, **ORDERED | {"retry": LATER}))
    topology, consumer = system.topology, system.topology.consumer("shard_0")
    names = Names(topology)
    with system.bus() as bus:
        bus.publish_many("ring", [({"n": number}, f"key-{number}") for number in range(20)])
    system.run_all(Failing(dict.fromkeys(range(20), 1)).one)
    queues = names.members(topology.generation("ring"))
    there = {queue: waiting_in(system, queue) for queue in queues}
    assert sum(there.values()) == 20
    closed, stays = queues
    assert there[closed]
    assert there[stays]
    deliveries = WaitingDeliveries(Order.of(consumer.queue), broker.clock(topology))
    waiting = WaitingQueues(
        topology, consumer, deliveries, report=lambda _: None, on_count=lambda _: None
    )
    with broker.connect(topology) as connection:
        raw: Any = connection.connection
        for queue in queues:
            assert waiting.open(raw, queue, queue, lambda _: None)
        assert len(waiting) == 20
        waiting.close(closed)
        assert len(waiting) == there[stays]
        assert waiting.open(raw, closed, closed, lambda _: None)
        assert len(waiting) == 20
        raw.channel().close()  # the answer comes after all acknowledgements
    wait_until(lambda: {queue: waiting_in(system, queue) for queue in queues} == there)
