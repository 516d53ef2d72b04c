"""A consumer that dies loses nothing and settles nothing of others."""

from __future__ import annotations

import os
import signal
import sqlite3

import pytest
from amqp.exceptions import RecoverableConnectionError

from tests.conformance.drive import (
    consume,
    contents,
    depth,
    drain_until,
    eventually,
    put,
    queue,
    redelivered,
    tag,
    texts,
)
from tests.stopped_processes import stop_and_wait

NUMBERS = [str(number) for number in range(20)]


def hold(client, name, count):
    """Start a process that holds deliveries and never settles them."""
    holder = client()
    holder.say("consume", name, count, count)
    assert holder.hear() == "consuming"
    return holder, holder.hear()


def test_deliveries_of_a_killed_consumer_go_to_one_that_waits(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS[:5])
    holder, held = hold(client, "q", 5)
    assert [body for body, _ in held] == NUMBERS[:5]
    got = consume(channel, "q")
    with pytest.raises(TimeoutError):
        channel.connection.drain_events(timeout=0.05)
    holder.kill()
    drain_until(channel, lambda: len(got) == 5)
    assert texts(got) == NUMBERS[:5]
    assert all(redelivered(message) for message in got)


def test_deliveries_of_a_killed_consumer_keep_their_places(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    holder, _ = hold(client, "q", 7)
    holder.kill()
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 20)
    assert texts(got) == NUMBERS
    assert [redelivered(message) for message in got] == [True] * 7 + [False] * 13


def test_a_consumer_that_starts_later_finds_what_a_killed_one_held(connect, client):
    setup = connect()
    queue(setup.default_channel, "q")
    put(setup.default_channel, "q", "m")
    holder, _ = hold(client, "q", 1)
    setup.release()
    holder.kill()
    channel = connect().channel()
    got = consume(channel, "q")
    drain_until(channel, lambda: got)
    assert texts(got) == ["m"]


def test_another_process_gets_what_a_killed_one_held(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", "m")
    holder, _ = hold(client, "q", 1)
    other = client()
    other.say("consume", "q", 1, 1)
    assert other.hear() == "consuming"
    holder.kill()
    assert other.hear() == [["m", True]]


def test_a_stopped_process_keeps_its_deliveries(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", "m")
    holder, _ = hold(client, "q", 1)
    got = consume(channel, "q")
    stop_and_wait(holder.process.pid)
    with pytest.raises(TimeoutError):
        channel.connection.drain_events(timeout=0.5)
    os.kill(holder.process.pid, signal.SIGCONT)
    assert got == []


def test_a_child_that_outlives_its_parent_holds_nothing(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", "m")
    holder, _ = hold(client, "q", 1)
    holder.say("fork")
    child = holder.hear()
    try:
        got = consume(channel, "q")
        holder.process.kill()
        drain_until(channel, lambda: got)
        assert texts(got) == ["m"]
    finally:
        os.kill(child, signal.SIGKILL)


def test_killing_over_and_over_loses_nothing(connect, client):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", *NUMBERS)
    for _ in range(4):
        holder, held = hold(client, "q", 6)
        assert [body for body, _ in held] == NUMBERS[:6]
        holder.kill()
    got = consume(channel, "q")
    drain_until(channel, lambda: len(got) == 20)
    assert texts(got) == NUMBERS


@pytest.mark.parametrize("settling", ["ack", "reject", "requeue", "receive"])
def test_who_was_taken_for_dead_settles_nothing(connect, path, settling):
    stale, other = connect(), connect()
    channel = stale.channel()
    queue(channel, "q")
    put(channel, "q", "1", "2")
    held = consume(channel, "q", prefetch=1)
    drain_until(channel, lambda: held)
    (lock,) = (path.parent / "broker.db.live").glob("*.lock")
    lock.unlink()  # as a careless clean-up would
    now = other.channel()
    got = consume(now, "q")
    drain_until(now, lambda: len(got) == 2)
    put(now, "q", "3")
    act = {
        "ack": lambda: channel.basic_ack(tag(held[0])),
        "reject": lambda: channel.basic_reject(tag(held[0]), False),
        "requeue": lambda: channel.basic_reject(tag(held[0]), True),
        "receive": lambda: stale.drain_events(timeout=5),
    }[settling]
    with pytest.raises(RecoverableConnectionError, match=r"considered this connection dead"):
        act()
    drain_until(now, lambda: len(got) == 3)
    now.basic_ack(tag(got[-1]), multiple=True)
    assert texts(got) == ["1", "2", "3"]
    assert depth(now, "q") == 0
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    file.close()


def test_a_closed_connection_leaves_no_files_behind(connect, path):
    connection = connect()
    consume_from = connection.channel()
    queue(consume_from, "q")
    consume(consume_from, "q")
    live = path.parent / "broker.db.live"
    assert {each.suffix for each in live.iterdir()} == {".lock", ".sock", ""}
    connection.release()
    assert [each.name for each in live.iterdir()] == ["creation"]


def test_the_files_of_a_killed_connection_are_swept(connect, client, path):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", "m")
    holder, _ = hold(client, "q", 1)
    holder.kill()
    consume(channel, "q")
    live = path.parent / "broker.db.live"
    eventually(lambda: len(list(live.glob("*.lock"))) == 1)
    assert len(list(live.glob("*.sock"))) == 1


def test_the_next_single_active_consumer_takes_over_from_a_killed_one(connect, client):
    channel = connect().channel()
    queue(channel, "q", single_active_consumer=True)
    put(channel, "q", *NUMBERS[:4])
    holder, _ = hold(client, "q", 2)
    got = consume(channel, "q")
    with pytest.raises(TimeoutError):
        channel.connection.drain_events(timeout=0.05)
    holder.kill()
    drain_until(channel, lambda: len(got) == 4)
    assert texts(got) == NUMBERS[:4]


def test_an_exclusive_queue_of_a_killed_process_is_deleted(connect, client, path):
    channel = connect().channel()
    queue(channel, "q")
    assert contents(channel, "q") == []
    holder = client()
    holder.say("declare", "q")
    assert holder.hear() == 0
