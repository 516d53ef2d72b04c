"""The embedded broker as a transport for anybody's Kombu program."""

from __future__ import annotations

import contextlib
import time

import pytest
from amqp.exceptions import MessageNacked
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub
from kombu.exceptions import OperationalError

from feedbus.transports.sqlite import Transport
from tests.projects import PATIENCE_SECONDS

NAME = "feedbus.transports.sqlite:Transport"
TASKS = Queue("tasks", Exchange("tasks", "direct"), routing_key="t")


def publish(connection, *payloads, queue=TASKS, **properties):
    producer = Producer(connection)
    for payload in payloads:
        producer.publish(
            payload,
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            declare=[queue],
            **properties,
        )


def test_kombu_knows_the_exchange_types_of_the_transport():
    assert Transport.implements.exchange_type == {
        "direct",
        "fanout",
        "headers",
        "topic",
        "x-consistent-hash",
    }


def received(connection, queue=TASKS):
    message = queue(connection.default_channel).get(no_ack=True)
    return None if message is None else message.payload


def test_a_program_publishes_and_consumes_with_kombus_own_classes(connect):
    connection = connect()
    got = []
    publish(connection, {"n": 1}, {"n": 2}, headers={"trace": "abc"})

    def note(payload, message):
        got.append((payload, message.headers["trace"]))
        message.ack()

    with Consumer(connection, [TASKS], callbacks=[note]):
        while len(got) < 2:
            connection.drain_events(timeout=PATIENCE_SECONDS)
    assert got == [({"n": 1}, "abc"), ({"n": 2}, "abc")]
    assert received(connection) is None


def test_a_simple_queue_works(connect):
    with contextlib.closing(connect().SimpleQueue("simple")) as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=PATIENCE_SECONDS)
        assert message.payload == {"n": 1}
        message.ack()
        with pytest.raises(queue.Empty):
            queue.get_nowait()


@pytest.mark.parametrize(
    "arguments",
    [
        lambda path: {"hostname": f"sqlite:///{path}", "transport": Transport},
        lambda path: {"hostname": f"sqlite:///{path}", "transport": NAME},
        lambda path: {"virtual_host": str(path), "transport": NAME},
        lambda path: {"hostname": str(path), "transport": Transport},
    ],
    ids=["url", "name", "virtual host", "hostname"],
)
def test_the_file_is_named_by_url_or_virtual_host(path, connect, arguments):
    publish(connect(), "m")
    with Connection(**arguments(path)) as connection:
        assert received(connection) == "m"
        assert connection.as_uri() == f"sqlite:///{path}"
        with connection.clone() as other:
            publish(other, "n")
        assert received(connection) == "n"


def test_a_url_with_three_slashes_is_relative_to_the_current_folder(path, connect, monkeypatch):
    publish(connect(), "m")
    monkeypatch.chdir(path.parent)
    with Connection(f"sqlite:///{path.name}", transport=Transport) as connection:
        assert received(connection) == "m"


@pytest.mark.parametrize("url", ["localhost", "amqp://localhost", "sqlite://", "sqlite:///"])
def test_a_connection_that_names_no_file_is_refused(url):
    connection = Connection(url, transport=Transport)
    with pytest.raises(ValueError, match="path of the broker file"):
        connection.connect()


@pytest.mark.parametrize("scheme", ["", "sqlite:///"])
def test_a_second_file_is_used_when_the_first_cannot_be_opened(path, scheme):
    path.write_text("this is a file, not a folder")
    urls = f"{scheme}{path}/broker.db;{scheme}{path.with_name('other.db')}"
    with Connection(urls, transport=Transport) as connection:
        publish(connection, "m")
        assert received(connection) == "m"
        assert connection.as_uri() == f"sqlite:///{path.with_name('other.db')}"


def test_a_file_that_cannot_be_opened_is_an_operational_error(path):
    path.write_text("this is a file, not a folder")
    connection = Connection(transport=Transport, virtual_host=f"{path}/broker.db")
    with pytest.raises(OperationalError, match=r"broker file .*broker\.db"):
        connection.ensure_connection(max_retries=1, interval_start=0)


def test_a_publish_with_retry_connects_again_after_the_connection_is_lost(connect):
    connection = connect()
    publish(connection, "m")
    connection.connection.collect()
    publish(connection, "n", retry=True)
    assert [received(connection), received(connection)] == ["m", "n"]


def test_an_operation_is_repeated_on_a_new_channel_after_the_connection_is_lost(connect):
    connection = connect()
    lost = connection.channel()
    connection.connection.collect()

    def declare(channel):
        return TASKS(channel).declare()

    name, channel = connection.autoretry(declare, lost)()
    assert name == "tasks"
    assert channel is not lost


def test_with_confirms_a_refused_message_raises(connect):
    full = Queue("full", max_length=1, queue_arguments={"x-overflow": "reject-publish"})
    connection = connect(confirm_publish=True)
    channel = connection.default_channel
    full(channel).declare()
    producer = Producer(channel)
    producer.publish("m", routing_key="full")
    with pytest.raises(MessageNacked):
        producer.publish("n", routing_key="full")
    assert received(connection, full) == "m"


def test_the_bindings_are_listed(connect):
    connection = connect()
    TASKS(connection.default_channel).declare()
    assert connection.get_manager().get_bindings() == [
        {"source": "tasks", "destination": "tasks", "routing_key": "t"}
    ]


class Looping:
    """A Kombu event loop, and what a consumer in it got."""

    def __init__(self, connection, queue=TASKS, prefetch=0):
        self.hub = Hub()
        self.got = []
        self.consumer = Consumer(
            connection.default_channel,
            [queue],
            on_message=self.got.append,
            prefetch_count=prefetch or None,
        )
        connection.transport.register_with_event_loop(connection.connection, self.hub)
        self.consumer.consume()

    def run_until(self, reached):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, "what was waited for did not happen"
            self.hub.run_once()

    def payloads(self):
        return [message.payload for message in self.got]


@pytest.fixture
def looping():
    made = []

    def make(*arguments, **options):
        made.append(Looping(*arguments, **options))
        return made[-1]

    yield make
    for each in made:
        each.hub.close()


def test_an_event_loop_hands_over_what_others_publish(connect, looping):
    loop = looping(connect())
    publish(connect(), "m", "n")
    loop.run_until(lambda: len(loop.got) == 2)
    assert loop.payloads() == ["m", "n"]


def test_an_event_loop_hands_over_what_its_own_connection_publishes(connect, looping):
    connection = connect()
    loop = looping(connection)
    publish(connection, "m")
    loop.run_until(lambda: loop.got)


def test_an_event_loop_gets_the_next_when_an_ack_makes_room(connect, looping):
    loop = looping(connect(), prefetch=1)
    publish(connect(), "m", "n")
    loop.run_until(lambda: loop.got)
    loop.got[0].ack()
    loop.run_until(lambda: len(loop.got) == 2)


def test_an_event_loop_gets_more_when_the_shared_prefetch_grows(connect, looping):
    connection = connect()
    connection.default_channel.basic_qos(0, 1, True)
    loop = looping(connection)
    publish(connect(), "m", "n", "o")
    loop.run_until(lambda: loop.got)
    loop.consumer.qos(prefetch_count=3, apply_global=True)
    loop.run_until(lambda: len(loop.got) == 3)


def test_an_event_loop_gets_a_message_whose_delay_ends_while_all_sleep(connect, looping):
    waiting = Queue(
        "waiting",
        routing_key="waiting",
        message_ttl=0.3,
        queue_arguments={
            "x-dead-letter-exchange": "tasks",
            "x-dead-letter-routing-key": "t",
        },
    )
    connection = connect()
    loop = looping(connection)
    publish(connection, "m", queue=waiting)
    loop.run_until(lambda: loop.got)


def test_a_closed_connection_leaves_its_event_loop_in_peace(connect, looping):
    connection = connect()
    loop = looping(connection)
    publish(connection, "m")
    connection.release()
    called = []
    loop.hub.call_later(0.05, called.append, True)
    loop.run_until(lambda: called)
    assert loop.got == []
