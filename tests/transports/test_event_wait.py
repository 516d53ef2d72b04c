"""An idle connection sleeps, and is woken by what concerns it."""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from kombu.connection import Connection

from feedbus.transports.sqlite import Transport
from tests.conformance.drive import consume, depth, drain_until, put, queue, text, texts
from tests.projects import PATIENCE_SECONDS

LONG_SECONDS = 30  # much longer than the wait: a wait that is too long ends with a timeout


def test_a_message_of_another_process_ends_the_wait(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    waiting = client()
    waiting.say("consume", "q", 1, 1)
    assert waiting.hear() == "consuming"
    put(channel, "q", "m")
    assert waiting.hear() == [["m", False]]


def test_only_a_wait_in_the_main_thread_is_ended_by_a_signal(connect):
    raw = connect().connection
    seen = [raw.wakes_on_signals]
    thread = threading.Thread(target=lambda: seen.append(raw.wakes_on_signals))
    thread.start()
    thread.join()
    assert seen == [True, False]


def test_a_delay_that_began_in_a_process_that_is_gone_ends_the_wait(connect, client):
    setup = connect()
    channel = setup.channel()
    queue(channel, "q")
    queue(channel, "later", message_ttl=300, dead_letter_exchange="", dead_letter_routing_key="q")
    waiting = client()
    waiting.say("consume", "q", 1, 1)
    assert waiting.hear() == "consuming"
    put(channel, "later", "m")
    setup.release()
    assert waiting.hear() == [["m", False]]


def test_an_earlier_delay_is_not_kept_waiting_by_a_later_one(connect):
    channel = connect().channel()
    queue(channel, "q")
    for wait in (LONG_SECONDS * 1000, 100):
        queue(
            channel,
            f"later.{wait}",
            message_ttl=wait,
            dead_letter_exchange="",
            dead_letter_routing_key="q",
        )
        put(channel, f"later.{wait}", str(wait))
    got = consume(channel, "q")
    channel.connection.drain_events(timeout=LONG_SECONDS)
    assert texts(got) == ["100"]


def test_an_idle_wait_is_one_sleep_not_many(connect):
    channel = connect().channel()
    queue(channel, "q")
    consume(channel, "q")
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    with pytest.raises(TimeoutError):
        channel.connection.drain_events(timeout=2)
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before < 20


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def handled(request):
    """The signals that were handled, and a function that sends one."""
    noted = []
    before = signal.signal(request.param, lambda *_: noted.append(request.param))
    yield noted, functools.partial(os.kill, os.getpid(), request.param)
    signal.signal(request.param, before)


def test_a_signal_ends_the_wait_once_its_handler_has_run(connect, handled):
    noted, send = handled
    channel = connect().channel()
    queue(channel, "q")
    consume(channel, "q")
    timer = threading.Timer(0.3, send)
    timer.start()
    with pytest.raises(TimeoutError, match="signal"):
        channel.connection.drain_events(timeout=LONG_SECONDS)
    timer.join()
    assert len(noted) == 1


def test_a_signal_just_before_the_wait_ends_it_too(connect, handled):
    noted, send = handled
    channel = connect().channel()
    queue(channel, "q")
    consume(channel, "q")
    with pytest.raises(TimeoutError, match="timed out"):
        channel.connection.drain_events(timeout=0.01)
    send()
    assert len(noted) == 1
    with pytest.raises(TimeoutError, match="signal"):
        channel.connection.drain_events(timeout=LONG_SECONDS)


def test_who_listened_to_signals_before_hears_of_them_and_gets_them_back(connect, handled):
    _, send = handled
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    connection = connect()
    consume(connection.default_channel, queue(connection.default_channel, "q"))
    with pytest.raises(TimeoutError, match="timed out"):
        connection.drain_events(timeout=0.01)
    send()
    with pytest.raises(TimeoutError, match="signal"):
        connection.drain_events(timeout=LONG_SECONDS)
    connection.release()
    assert signal.set_wakeup_fd(-1) == writer
    assert len(os.read(reader, 10)) == 1
    os.close(reader)
    os.close(writer)


def test_a_connection_may_move_to_another_thread(connect):
    channel = connect().channel()
    queue(channel, "q")
    got = consume(channel, "q")
    put(channel, "q", "m")
    thread = threading.Thread(target=drain_until, args=(channel, lambda: got))
    thread.start()
    thread.join()
    assert texts(got) == ["m"]
    channel.basic_ack(got[0].delivery_tag)
    assert depth(channel, "q") == 0


def test_a_path_too_long_for_a_socket_wakes_all_the_same(tmp_path):
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    with (
        Connection(transport=Transport, virtual_host=str(folder / "broker.db")) as one,
        Connection(transport=Transport, virtual_host=str(folder / "broker.db")) as other,
    ):
        channel = one.channel()
        queue(channel, "q")
        got = consume(channel, "q")
        timer = threading.Timer(0.3, put, (other.default_channel, "q", "m"))
        timer.start()
        one.drain_events(timeout=LONG_SECONDS)
        timer.join()
        assert texts(got) == ["m"]


def test_a_connection_that_could_not_say_goodbye_is_missed_at_once(connect):
    leaving, staying = connect(), connect()
    queue(staying.default_channel, "q")
    put(staying.default_channel, "q", "m")
    held = consume(leaving.default_channel, "q")
    drain_until(leaving.default_channel, lambda: held)
    got = consume(staying.default_channel, "q")
    timer = threading.Timer(0.3, leaving.connection.collect)
    timer.start()
    staying.drain_events(timeout=LONG_SECONDS)
    timer.join()
    assert texts(got) == ["m"]


def test_a_program_without_kombus_connection_open_leaves_nothing_running(path):
    program = (
        "import json, sys\n"
        "from kombu.connection import Connection\n"
        "from feedbus.transports.sqlite import Transport\n"
        "with Connection(transport=Transport, virtual_host=sys.argv[1]) as connection:\n"
        "    channel = connection.channel()\n"
        "    channel.queue_declare('q', durable=True, auto_delete=False)\n"
        "    channel.basic_publish(channel.prepare_message(b'm'), '', 'q')\n"
        "    print(json.dumps(channel.basic_get('q', no_ack=True).body.decode()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
        cwd=Path(__file__).parents[2],
    )
    assert json.loads(done.stdout) == "m"
    assert done.stderr == ""


def test_unconfirmed_publishes_are_stored_when_the_connection_closes(connect):
    first = connect()
    channel = first.channel()
    queue(channel, "q")
    channel.confirm_select()
    channel.basic_publish(channel.prepare_message(b"m"), "", "q")
    first.release()
    other = connect().channel()
    assert text(other.basic_get("q", no_ack=True)) == "m"
