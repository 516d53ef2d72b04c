"""The broker file gives disk space back when a backlog is gone and no process uses the file."""

from __future__ import annotations

import sqlite3

import pytest

from feedbus.transports.sqlite.compaction import SPARE_BYTES
from tests.conformance.drive import Publisher, consume, contents, drain_until, put, queue

MESSAGES, BYTES = 500, 100_000


def sizes(path):
    """Return the bytes of the file and of its log."""
    log = path.with_name(f"{path.name}-wal")
    return path.stat().st_size, log.stat().st_size if log.exists() else 0


def fill(channel, name, count=MESSAGES):
    publisher = Publisher(channel)
    for _ in range(count):
        publisher.send(b"x" * BYTES, key=name)
    publisher.wait()


def purge(channel, name):
    assert channel.queue_purge(name) == MESSAGES


@pytest.fixture
def emptied(connect, path):
    """Connect, and leave a file that is large and almost empty."""
    channel = connect().channel()
    queue(channel, "q")
    queue(channel, "kept")
    put(channel, "kept", "1", "2")
    fill(connect().channel(), "q")
    purge(channel, "q")
    assert sizes(path)[0] > MESSAGES * BYTES
    return channel


def test_an_idle_consumer_gives_back_the_space_of_a_backlog(emptied, path):
    consume(emptied, "q")
    drain_until(emptied, lambda: sum(sizes(path)) < 1_000_000)
    assert contents(emptied, "kept") == ["1", "2"]


def test_a_consumer_that_polls_in_short_steps_gives_it_back_too(emptied, path):
    consume(emptied, "q")
    for _ in range(300):
        with pytest.raises(TimeoutError):
            emptied.connection.drain_events(timeout=0.02)
        if sum(sizes(path)) < 1_000_000:
            return
    pytest.fail(f"still {sizes(path)} bytes")


def test_the_file_is_not_rewritten_while_another_process_uses_it(emptied, connect, path):
    consume(emptied, "q")
    other = connect().channel()
    for number in range(20):
        put(other, "kept", str(number))
        with pytest.raises(TimeoutError):
            emptied.connection.drain_events(timeout=0.2)
    assert sizes(path)[0] > MESSAGES * BYTES
    drain_until(emptied, lambda: sum(sizes(path)) < 1_000_000)


def test_what_holds_more_than_it_has_free_stays_as_it_is(emptied, connect, path):
    fill(connect().channel(), "kept", MESSAGES - 10)
    before = sizes(path)[0]
    consume(emptied, "q")
    for _ in range(6):
        with pytest.raises(TimeoutError):
            emptied.connection.drain_events(timeout=0.5)
    assert sizes(path)[0] >= before
    assert sizes(path)[1] <= SPARE_BYTES


def test_connections_of_other_processes_go_on_after_the_file_was_rewritten(
    emptied, client, connect, path
):
    other, writer = client(), connect().channel()
    put(writer, "kept", "3")
    other.say("consume", "kept", 10, 4)
    assert other.hear() == "consuming"
    consume(emptied, "q")
    drain_until(emptied, lambda: sum(sizes(path)) < 1_000_000)
    put(writer, "kept", "4")
    assert [body for body, _ in other.hear()] == ["1", "2", "3", "4"]
    with sqlite3.connect(path) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file.close()


def test_a_message_that_comes_meanwhile_is_delivered(emptied, connect, path):
    got = consume(emptied, "q")
    drain_until(emptied, lambda: sum(sizes(path)) < 1_000_000)
    put(connect().channel(), "q", "m")
    drain_until(emptied, lambda: got)
    assert got[0].body in {b"m", "m"}
