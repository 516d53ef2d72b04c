"""The broker in memory: several connections and threads of one process, on the machine's clock."""

from __future__ import annotations

import os
import threading

import pytest
from amqp.exceptions import RecoverableConnectionError
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub

from feedbus.clock import VirtualClock
from feedbus.store.peewee import close_bound
from feedbus.transports import memory
from feedbus.transports.sqlite.delivery_owners import end_consumer
from feedbus.urls import BrokerUrl
from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_until,
    put,
    queue,
    tag,
    take,
    texts,
)
from tests.projects import PATIENCE_SECONDS
from tests.small_topologies import sharded
from tests.systems import System

TASKS = Queue("tasks", Exchange("tasks", "direct"), routing_key="t")


@pytest.fixture
def connect():
    opened = []

    def make(name="tests", **parameters):
        parameters = parameters or {"virtual_host": name}
        opened.append(Connection(transport=memory.Transport, **parameters))
        return opened[-1]

    yield make
    for connection in opened:
        connection.release()
    memory.remove("tests")


def test_connections_of_one_name_share_a_broker_and_others_do_not(connect):
    queue(connect().default_channel, "q")
    put(connect().default_channel, "q", "m")
    assert contents(connect(hostname="memory://tests").default_channel, "q") == ["m"]
    other = connect("others")
    with pytest.raises(other.channel_errors):
        depth(other.default_channel, "q")
    other.release()
    memory.remove("others")


def test_a_broker_outlives_its_connections_until_it_is_removed(connect):
    first = connect()
    queue(first.default_channel, "q")
    put(first.default_channel, "q", "m")
    first.release()
    second = connect()
    assert depth(second.default_channel, "q") == 1
    second.release()
    memory.remove("tests")
    with pytest.raises(first.channel_errors):
        depth(connect().default_channel, "q")


def test_a_consumer_in_a_thread_is_woken_by_a_publisher_in_another(connect):
    channel = connect().default_channel
    queue(channel, "q")
    got = []

    def serve():
        own = connect().default_channel
        arrived = consume(own, "q")
        ready.set()
        drain_until(own, lambda: len(arrived) == 100)
        got.extend(texts(arrived))

    ready = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(PATIENCE_SECONDS)
    for number in range(100):
        put(channel, "q", str(number))
    thread.join(PATIENCE_SECONDS)
    assert got == [str(number) for number in range(100)]


def test_eight_threads_publish_and_consume_and_each_message_arrives_once(connect):
    queue(connect().default_channel, "q")
    got = []

    def publish(first):
        put(connect().default_channel, "q", *map(str, range(first, first + 100)))

    def serve():
        own = connect().default_channel
        mine = consume(own, "q", prefetch=3)
        seen = 0

        def settle():
            nonlocal seen
            while seen < len(mine):
                got.append(int(texts(mine[seen : seen + 1])[0]))
                own.basic_ack(tag(mine[seen]))
                seen += 1
            return len(got) >= 400

        drain_until(own, settle)

    threads = [threading.Thread(target=publish, args=(first,)) for first in range(0, 400, 100)]
    threads += [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(got) == list(range(400))


def test_what_a_connection_held_when_it_broke_goes_to_another(connect):
    broken, channel = connect(), connect().default_channel
    queue(channel, "q")
    put(channel, "q", "m")
    first = consume(broken.default_channel, "q")
    drain_until(broken.default_channel, lambda: first)
    second = consume(channel, "q")
    broken.collect()
    drain_until(channel, lambda: second)
    assert texts(second) == ["m"]
    assert second[0].delivery_info["redelivered"]


def test_a_program_of_kombus_own_classes_runs_on_it(connect):
    connection, got = connect(), []
    producer = Producer(connection)
    producer.publish({"n": 1}, exchange="tasks", routing_key="t", declare=[TASKS])
    with Consumer(connection, [TASKS], callbacks=[lambda body, _: got.append(body)]):
        connection.drain_events(timeout=PATIENCE_SECONDS)
    assert got == [{"n": 1}]


def test_an_event_loop_waits_for_it(connect):
    connection, got, hub = connect(), [], Hub()
    consumer = Consumer(connection.default_channel, [TASKS], on_message=got.append)
    connection.transport.register_with_event_loop(connection.connection, hub)
    consumer.consume()
    hub.run_once()
    Producer(connect()).publish({"n": 1}, exchange="tasks", routing_key="t")
    while not got:
        hub.run_once()
    assert got[0].payload == {"n": 1}
    hub.close()


def test_a_delay_of_an_hour_ends_when_the_virtual_clock_says_so(connect):
    clock = VirtualClock()
    memory.create(memory.MemoryBroker("tests", clock=clock))
    channel = connect().default_channel
    queue(channel, "q")
    hour = {"dead_letter_exchange": "", "dead_letter_routing_key": "q"}
    queue(channel, "later", message_ttl=3_600_000, **hour)
    put(channel, "later", "m")
    clock.sleep(3599)
    assert depth(channel, "q") == 0
    clock.sleep(1)
    assert texts([take(channel, "q")]) == ["m"]


def test_a_broker_is_made_with_what_another_one_holds(connect):
    channel = connect().default_channel
    queue(channel, "q")
    put(channel, "q", "m")
    held = memory.broker.find("tests").serialized()
    memory.create(memory.MemoryBroker("copy", prepared=held))
    other = connect("copy")
    put(other.default_channel, "q", "n")
    assert contents(other.default_channel, "q") == ["m", "n"]
    assert depth(channel, "q") == 1
    other.release()
    memory.remove("copy")


def test_two_brokers_of_one_seed_give_the_same_names(connect):
    names = []
    for _ in range(2):
        memory.create(memory.MemoryBroker("tests", seed=7))
        connection = connect()
        names.append(connection.default_channel.queue_declare("", durable=True).queue)
        connection.release()
        memory.remove("tests")
    assert names[0] == names[1]


def test_a_second_broker_of_a_name_is_refused(connect):
    connect().connect()
    with pytest.raises(ValueError, match="a broker in memory named 'tests' exists already"):
        memory.create(memory.MemoryBroker("tests"))


def test_a_connection_without_a_name_is_refused():
    with pytest.raises(ValueError, match="the name of a memory broker"):
        Connection(transport=memory.Transport).connect()


def test_a_forked_child_cannot_use_its_parents_broker(connect):
    connection = connect()
    channel = connection.channel()
    queue(channel, "q")
    child = os.fork()
    if not child:
        status = 1
        try:
            with pytest.raises(RecoverableConnectionError):
                channel.queue_declare("other", durable=True)
            with pytest.raises(connection.connection_errors, match="was forked"):
                memory.broker.find("tests").open()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    put(channel, "q", "m")
    assert contents(channel, "q") == ["m"]


def test_real_runners_go_through_a_change_of_shards_in_threads_of_one_process(tmp_path):
    before = System.at(tmp_path, sharded(2), broker_url=BrokerUrl.in_memory("tests"))
    keys = [str(key) for key in range(40)]
    seen = {key: [] for key in keys}

    def publish(system, number):
        with system.bus() as bus:
            bus.publish_many("ring", [({"n": number, "text": key}, key) for key in keys])

    def note(message, _bus):
        seen[message["text"]].append(message["n"])

    publish(before, 1)
    after = before.reshaped(sharded(3))
    publish(after, 2)
    after.run_all(note, idle_seconds=1.0)
    close_bound()
    memory.remove("tests")
    assert seen == {key: [1, 2] for key in keys}


def test_a_subscription_that_the_broker_has_ended_takes_no_message(connect):
    reader, other = connect(), connect()
    queue(reader.default_channel, "q")
    got: list[object] = []
    reader.default_channel.basic_consume(
        "q", consumer_tag="c", callback=got.append, on_cancel=got.append
    )
    raw = other.default_channel.connection
    ((consumer,),) = raw.tables.read("SELECT id FROM consumers")
    with raw.write() as tx:
        end_consumer(tx, consumer)
    put(other.default_channel, "q", "m")
    # The reader takes messages before it notices that its subscription has ended.
    assert not reader.default_channel.connection._claimed.fetch()
    assert contents(other.default_channel, "q") == ["m"]
    drain_until(reader, lambda: got == ["c"])
