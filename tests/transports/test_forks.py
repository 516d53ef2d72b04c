"""Forks: a child leaves its parent's connections alone and makes its own."""

from __future__ import annotations

import os
import threading

import pytest
from amqp.exceptions import RecoverableConnectionError
from kombu.connection import Connection

from feedbus.transports.sqlite import Transport
from tests.conformance.drive import consume, contents, drain_until, put, queue, texts


def in_child(act):
    """Run act in a forked child; fail here when it fails there."""
    child = os.fork()
    if not child:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_an_inherited_channel_is_closed_in_the_child(connect):
    channel = connect().channel()
    queue(channel, "q")

    def act():
        with pytest.raises(RecoverableConnectionError):
            channel.queue_declare("other", durable=True)

    in_child(act)
    put(channel, "q", "m")
    assert contents(channel, "q") == ["m"]


def test_an_inherited_connection_connects_again_in_the_child(connect):
    connection = connect()
    queue(connection.default_channel, "q")

    def act():
        put(connection.default_channel, "q", "m")

    in_child(act)
    assert contents(connection.default_channel, "q") == ["m"]


def test_a_child_that_closes_what_it_inherited_takes_nothing_from_its_parent(connect):
    connection = connect()
    channel = connection.channel()
    queue(channel, "q")
    put(channel, "q", "1", "2")
    got = consume(channel, "q", prefetch=1)
    drain_until(channel, lambda: got)

    def act():
        channel.close()
        connection.release()
        connection.collect()

    in_child(act)
    other = connect().channel()
    assert other.queue_declare("q", passive=True).consumer_count == 1
    put(other, "q", "3")
    channel.basic_ack(got[0].delivery_tag)
    drain_until(channel, lambda: len(got) == 2)
    assert texts(got) == ["1", "2"]


def test_a_consumers_wait_goes_on_after_a_fork(connect):
    channel = connect().channel()
    queue(channel, "q")
    got = consume(channel, "q")
    with pytest.raises(TimeoutError):
        channel.connection.drain_events(timeout=0.05)
    in_child(lambda: None)
    put(connect().channel(), "q", "m")
    drain_until(channel, lambda: got)


def test_a_childs_messages_stay_when_all_other_connections_close(path, connect):
    # The last that closes the file removes its journal, so a child must hold a lock of its own.
    parent = connect()
    queue(parent.default_channel, "q")
    closed, published = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        own = Connection(transport=Transport, virtual_host=str(path))
        put(own.default_channel, "q", "before")
        os.write(published[1], b"x")
        os.read(closed[0], 1)
        put(own.default_channel, "q", "after")
        os._exit(0)
    os.read(published[0], 1)
    parent.release()
    os.write(closed[1], b"x")
    os.waitpid(child, 0)
    for end in (*closed, *published):
        os.close(end)
    assert contents(connect().default_channel, "q") == ["before", "after"]


def test_a_fork_waits_for_a_thread_that_writes(path, connect):
    channel = connect().channel()
    queue(channel, "q")
    link = channel.connection
    writing, forked = threading.Event(), threading.Event()
    order = []

    def write():
        with link.write() as tx:
            writing.set()
            forked.wait(0.2)
            order.append("written")
            tx.topology_changed = True

    thread = threading.Thread(target=write)
    thread.start()
    writing.wait()
    in_child(lambda: None)
    order.append("forked")
    forked.set()
    thread.join()
    assert order == ["written", "forked"]
    put(channel, "q", "m")
    assert contents(channel, "q") == ["m"]
