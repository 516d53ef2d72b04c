"""The SQLite file of a store: its owner, its writers, its transactions and outages."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from feedbus.errors import Outage
from feedbus.store.peewee import (
    PeeweeStore,
    bind,
    bound,
    close_bound,
    database,
    sqlite,
    transaction,
)
from feedbus.store.sqlite_write_lock import WriteLock
from tests.projects import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]


def test_the_sqlite_file_is_for_its_owner_alone_and_its_folder_is_made(tmp_path: Path):
    path = tmp_path / "new" / "feeds.db"
    bind(PeeweeStore(f"sqlite:///{path}"))
    bound().set_up()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    close_bound()
    assert {"feeds.db", "feeds.db-wal", "feeds.db-shm"} < modes.keys()
    assert set(modes.values()) == {0o600}


def test_processes_that_create_a_file_at_the_same_time_all_connect_to_it(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, errors = context.Barrier(6), context.SimpleQueue()

    def connect_to_each():
        for number in range(60):
            start.wait(PATIENCE_SECONDS)
            try:
                PeeweeStore(f"sqlite:///{tmp_path}/{number}.db").execute("SELECT 1", {})
            except Exception as error:  # noqa: BLE001  # the test reports all of them
                errors.put(repr(error))
        errors.put(None)

    for _ in range(start.parties):
        context.Process(target=connect_to_each, daemon=True).start()
    found = [errors.get() for _ in range(start.parties)]
    assert found == [None] * start.parties


def test_connections_of_threads_that_have_ended_are_closed(tmp_path: Path):
    store = bind(PeeweeStore(f"sqlite:///{tmp_path}/feeds.db"))
    for _ in range(5):
        thread = threading.Thread(target=database.execute_sql, args=["SELECT 1"])
        thread.start()
        thread.join()
    assert len(store.database._opened) == 1
    close_bound()


def test_a_process_that_leaves_does_not_take_the_log_of_those_that_stay(tmp_path: Path):
    path = tmp_path / "feeds.db"
    ask = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    )
    query = "SELECT count(*) FROM feedbus_outbox"
    bind(PeeweeStore(f"sqlite:///{path}"))
    try:
        bound().set_up()
        other = threading.Thread(target=database.execute_sql, args=["SELECT 1"])
        other.start()
        other.join()
        subprocess.run([sys.executable, "-c", ask, path, query], check=True)
        bound().outbox.put("e", {}, "k")
        reported = subprocess.run(
            [sys.executable, "-c", ask, path, query], check=True, capture_output=True, text=True
        ).stdout
    finally:
        close_bound()
    assert reported == "1\n"


def test_sqlite_commits_survive_a_power_cut(tmp_path: Path):
    bind(PeeweeStore(f"sqlite:///{tmp_path}/feeds.db"))
    asked = {name: database.pragma(name) for name in ("journal_mode", "synchronous")}
    close_bound()
    assert asked == {"journal_mode": "wal", "synchronous": 2}


def test_a_locked_sqlite_file_is_an_outage_and_loses_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "feeds.db"
    bind(PeeweeStore(f"sqlite:///{path}"))
    bound().set_up()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Outage, match="locked"), transaction():
        bound().outbox.put("x", {"n": 1})
    other.execute("ROLLBACK")
    other.close()
    with transaction():
        bound().outbox.put("x", {"n": 2})
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":2}']
    close_bound()


def test_a_sqlite_transaction_takes_its_lock_with_its_first_statement_and_waits_outside_the_clock(
    tmp_path: Path,
):
    path, waits = tmp_path / "feeds.db", []

    @contextmanager
    def waiting():
        waits.append("begun")
        other.execute("ROLLBACK")  # so that the wait can end
        yield
        waits.append("over")

    store = bind(PeeweeStore(f"sqlite:///{path}", waiting=waiting))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE effects (n)")
    other.execute("BEGIN IMMEDIATE")
    with store.transaction():
        pass
    assert waits == []
    with store.transaction():
        database.execute_sql("INSERT INTO effects VALUES (1)")
        assert waits == ["begun", "over"]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("BEGIN IMMEDIATE")
    assert other.execute("SELECT n FROM effects").fetchall() == [(1,)]
    other.close()
    store.close()


def test_sqlite_writers_take_turns_and_one_that_waits_in_vain_gives_up(tmp_path: Path):
    path = str(tmp_path / "turn")
    first, second, third = WriteLock(path), WriteLock(path), WriteLock(path)
    assert first.acquire(0)
    assert not second.acquire(0.05)
    got = []
    waiting = threading.Thread(target=lambda: got.append(third.acquire(20)))
    waiting.start()
    first.release()
    waiting.join(PATIENCE_SECONDS)
    assert got == [True]
    assert not first.acquire(0.05)
    third.release()
    third.release()
    assert second.acquire(20)  # its earlier place in the queue is free
    second.release()


def test_a_writer_killed_in_its_transaction_gives_its_turn_away(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/feeds.db"
    bind(PeeweeStore(url))
    bound().set_up()
    program = (
        "import os; from feedbus.store.peewee import PeeweeStore, bind\n"
        f"store = PeeweeStore({url!r})\n"
        "with store.transaction():\n    store.outbox.put('x', {'n': 1}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    with transaction():
        bound().outbox.put("x", {"n": 2})
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":2}']
    close_bound()


def test_a_file_that_is_no_database_is_an_outage_in_words(tmp_path: Path):
    path = tmp_path / "feeds.db"
    path.write_text("not a database " * 100)
    bind(PeeweeStore(f"sqlite:///{path}"))
    with pytest.raises(Outage, match="not an SQLite database"):
        bound().ready()
    close_bound()
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_made_is_an_outage_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    bind(PeeweeStore(f"sqlite:///{tmp_path}/file/feeds.db"))
    with pytest.raises(Outage, match="cannot be opened"):
        bound().ready()
    close_bound()


def test_a_store_that_cannot_be_written_is_an_outage_in_words(tmp_path: Path):
    bind(PeeweeStore(f"sqlite:///{tmp_path}/feeds.db"))
    bound().set_up()
    database.pragma("query_only", 1)  # as for a user who is not root and has a read-only file
    with pytest.raises(Outage, match="writable"), transaction():
        bound().outbox.put("x", {})
    close_bound()


def test_a_full_sqlite_file_is_an_outage_and_what_was_there_stays(tmp_path: Path):
    bind(PeeweeStore(f"sqlite:///{tmp_path}/feeds.db"))
    bound().set_up()
    bound().outbox.put("x", {"n": 1})
    database.pragma("max_page_count", database.pragma("page_count"))
    with pytest.raises(Outage, match="full"), transaction():
        bound().outbox.put("x", {"text": "x" * 1_000_000})
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}']
    close_bound()


def test_a_connection_that_another_thread_uses_is_left_to_it_when_the_store_is_closed(tmp_path):
    store = PeeweeStore(f"sqlite:///{tmp_path}/store.db")
    counting = (
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
        " SELECT count(*) FROM numbers"
    )
    begun, found = threading.Event(), []

    def count() -> None:
        store.database.execute_sql("SELECT 1")
        begun.set()
        for _ in range(20):
            found.extend(store.database.execute_sql(counting, (100_000,)).fetchone())

    thread = threading.Thread(target=count)
    thread.start()
    begun.wait()
    store.close()
    thread.join()
    assert found == [100_000] * 20
