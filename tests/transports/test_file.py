"""The broker file: which users may read it, and what happens if it cannot be written."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from amqp.exceptions import NotFound
from kombu.connection import Connection

from feedbus.transports.sqlite import Transport
from feedbus.transports.sqlite.schema import open_database
from tests.conformance.drive import Publisher, contents, depth, put, queue
from tests.required_servers import only_if

needs_root = only_if(os.geteuid() == 0, "only root may mount a file system")


@contextmanager
def small_disk(folder, size="1m"):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_file_and_its_folders_are_closed_to_others(connect, path):
    channel = connect().channel()
    queue(channel, "q")
    put(channel, "q", "secret")
    for name in ("broker.db", "broker.db-wal", "broker.db-shm"):
        assert mode(path.parent / name) == 0o600
    assert mode(path.parent / "broker.db.live") == 0o700


def test_a_file_of_an_older_version_gets_the_missing_built_in_exchanges(connect, path):
    other = connect().channel()
    with closing(open_database(path, busy_timeout_seconds=1)) as database:
        database.execute("DELETE FROM exchanges WHERE name IN ('amq.headers', 'amq.match')")
        database.execute("UPDATE state SET topology = topology + 1")
    with pytest.raises(NotFound):
        other.exchange_declare("amq.headers", passive=True)
    connect().channel().exchange_declare("amq.match", passive=True)
    other.exchange_declare("amq.headers", passive=True)


def test_a_process_that_leaves_does_not_take_the_log_of_those_that_stay(path):
    first = open_database(path, busy_timeout_seconds=1)
    second = open_database(path, busy_timeout_seconds=1)
    ask = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    )
    query = "SELECT next_message FROM state"
    with closing(first), closing(second):
        subprocess.run([sys.executable, "-c", ask, path, query], check=True)
        first.execute("UPDATE state SET next_message = 77")
        reported = subprocess.run(
            [sys.executable, "-c", ask, path, query], check=True, capture_output=True, text=True
        ).stdout
    assert reported == "77\n"


def test_a_missing_folder_is_made_closed_to_others(tmp_path):
    path = tmp_path / "var" / "broker.db"
    with Connection(transport=Transport, virtual_host=str(path)) as connection:
        connection.connect()
        assert mode(path.parent) == 0o700


def test_ten_processes_create_the_file_together(client, connect):
    clients = [client() for _ in range(10)]
    for each in clients:
        each.say("declare", "q")
    assert [each.hear() for each in clients] == [0] * 10
    assert depth(connect().channel(), "q") == 0


def test_what_was_confirmed_is_there_after_all_connections_ended(connect):
    first = connect()
    queue(first.default_channel, "q")
    put(first.default_channel, "q", "kept", headers={"h": 1})
    first.release()
    assert contents(connect().channel(), "q") == ["kept"]


def test_a_file_of_something_else_is_refused_and_left_as_it_is(connect, path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious (value)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(sqlite3.OperationalError, match="not a broker file"):
        connect().connect()
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(connect, path):
    path.write_text("these are my notes, not a database " * 100)
    with pytest.raises(sqlite3.OperationalError, match="not a database"):
        connect().connect()
    assert path.read_text().startswith("these are my notes")


def test_a_file_of_another_version_is_refused(connect, path):
    connect().connect()
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    with pytest.raises(sqlite3.OperationalError, match="version 1 of its tables, got 99"):
        connect().connect()


def test_its_errors_are_recoverable_connection_errors():
    assert sqlite3.OperationalError in Transport.connection_errors
    assert sqlite3.OperationalError in Transport.recoverable_connection_errors


def test_a_file_that_is_locked_for_too_long_is_reported(connect, path):
    channel = connect(busy_timeout_seconds=0.2).channel()
    queue(channel, "q")
    hog = sqlite3.connect(path, isolation_level=None)
    hog.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(sqlite3.OperationalError, match=r"locked for 0\.2 seconds"):
            channel.basic_publish(channel.prepare_message(b"m"), "", "q")
    finally:
        hog.execute("ROLLBACK")
        hog.close()
    channel.basic_publish(channel.prepare_message(b"after"), "", "q")
    assert contents(channel, "q") == ["after"]


@needs_root
def test_a_full_disk_confirms_nothing_that_it_does_not_keep(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder):
        connection = Connection(transport=Transport, virtual_host=str(folder / "broker.db"))
        channel = connection.channel()
        queue(channel, "q")
        publisher = Publisher(channel)

        def fill():
            for _ in range(100):
                publisher.send(b"x" * 50_000, key="q")
                publisher.wait()

        with pytest.raises(sqlite3.OperationalError, match="the disk is full; free some space"):
            fill()
        stored = len(publisher.reported)
        assert stored == publisher.sent - 1
        assert publisher.nacked == []
        assert depth(channel, "q") == stored
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        put(channel, "q", "room again")
        assert len(contents(channel, "q")) == stored + 1
        connection.release()


@needs_root
def test_a_disk_that_became_read_only_is_reported(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, "4m"):
        connection = Connection(transport=Transport, virtual_host=str(folder / "broker.db"))
        queue(connection.default_channel, "q")
        connection.release()
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(sqlite3.OperationalError, match="cannot be written"):
            connection.connect()
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
        put(connection.default_channel, "q", "m")
        assert contents(connection.default_channel, "q") == ["m"]
        connection.release()


@contextmanager
def as_owner_without_privileges(folder):
    """Act as an owner of a folder who is not root, because root may write read-only files."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody").pw_uid
    for each in (folder, *folder.rglob("*")):
        os.chown(each, nobody, -1)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_file_is_reported():
    with tempfile.TemporaryDirectory() as name:  # others than root may enter it
        path = Path(name) / "broker.db"
        with Connection(transport=Transport, virtual_host=str(path)) as connection:
            queue(connection.default_channel, "q")
        path.chmod(0o400)
        with (
            as_owner_without_privileges(Path(name)),
            Connection(transport=Transport, virtual_host=str(path)) as connection,
            pytest.raises(sqlite3.OperationalError, match="cannot be written"),
        ):
            queue(connection.default_channel, "other")


def test_a_queue_keeps_its_count_through_everything(connect, path):
    channel = connect().channel()
    queue(channel, "dead")
    queue(channel, "q", max_length=5, dead_letter_exchange="", dead_letter_routing_key="dead")
    put(channel, "q", *(str(number) for number in range(8)))
    channel.basic_reject(channel.basic_get("q").delivery_tag, requeue=False)
    channel.basic_reject(channel.basic_get("q").delivery_tag, requeue=True)
    channel.basic_ack(channel.basic_get("q").delivery_tag)
    channel.basic_get("q")
    channel.close()
    with sqlite3.connect(path) as file:
        rows = file.execute(
            "SELECT name, depth, (SELECT count(*) FROM ready WHERE queue = id) FROM queues"
        ).fetchall()
        messages = file.execute("SELECT count(*) FROM messages").fetchone()
    file.close()
    assert rows == [("dead", 4, 4), ("q", 3, 3)]
    assert messages == (7,)
