"""The store as the framework sees it: outages, transactions, outbox, inbox, relay."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import peewee
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from feedbus import outbox
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.outbox.turns import Turn
from tests.servers.postgres import Postgres, free_port

ROOT = Path(__file__).parents[1]
AWAY = Outage("the broker is away")


class ListBus:
    """Keeps what is published; refuses some keys, or is away."""

    def __init__(self, refused: tuple[str, ...] = (), *, away_after: int | None = None) -> None:
        self.published: list[tuple[str, dict, str, str | None]] = []
        self.refused, self.away_after = refused, away_after

    def publish(self, exchange, payload, key="", *, message_id=None):
        if self.away_after is not None and len(self.published) >= self.away_after:
            raise AWAY
        if key in self.refused:
            raise PublishError([(message_id or "", "nacked")])
        self.published.append((exchange, payload, key, message_id))


def outbox_rows() -> int:
    return outbox.Outbox.select().count()


def roll_back(work) -> None:
    """Do work in a transaction that fails afterwards."""

    def fail():
        with outbox.transaction():
            work()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()


def test_an_outbox_row_commits_with_its_cause_or_not_at_all(store_url):
    roll_back(lambda: outbox.put("publish_tweet", {"id": 1}))
    assert outbox.pending() == []
    with outbox.transaction():
        entry = outbox.put("publish_tweet", {"id": 1, "text": "née 🙂"}, "key")
    assert outbox.pending() == [entry]


def test_the_relay_publishes_what_is_left_in_order_under_the_ids_of_the_rows(store_url):
    with outbox.transaction():
        entries = [outbox.put("publish_tweet", {"n": n}, "k") for n in range(5)]
    bus = ListBus()
    assert outbox.relay(bus, limit=2, older_than_seconds=0) == 5
    assert [payload["n"] for _, payload, _, _ in bus.published] == [0, 1, 2, 3, 4]
    assert [found[3] for found in bus.published] == [entry.message_id for entry in entries]
    assert outbox_rows() == 0


def test_a_row_published_again_after_a_crash_keeps_its_message_id(store_url):
    outbox.put("publish_tweet", {"n": 1})
    first, second = ListBus(), ListBus()
    outbox.publish_entries(first, outbox.pending())
    outbox.put("publish_tweet", {"n": 1}, message_id=first.published[0][3])
    outbox.relay(second, older_than_seconds=0)
    assert second.published[0][3] == first.published[0][3]


def test_the_relay_leaves_young_rows_to_those_who_put_them(store_url):
    outbox.put("publish_tweet", {"n": 1})
    assert outbox.relay(ListBus(), older_than_seconds=60) == 0
    assert outbox_rows() == 1


def test_a_refused_row_holds_back_its_own_key_alone(store_url):
    for n, key in enumerate(["bad", "good", "bad", "good"]):
        outbox.put("publish_tweet", {"n": n}, key)
    bus = ListBus(refused=("bad",))
    assert outbox.relay(bus, limit=10, older_than_seconds=0) == 2
    assert [payload["n"] for _, payload, _, _ in bus.published] == [1, 3]
    assert [entry.payload for entry in outbox.pending()] == ['{"n":0}', '{"n":2}']


def test_a_broker_that_goes_away_leaves_the_rows_it_did_not_confirm(store_url):
    for n in range(3):
        outbox.put("publish_tweet", {"n": n})
    with pytest.raises(Outage):
        outbox.relay(ListBus(away_after=1), older_than_seconds=0)
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}', '{"n":2}']


def test_one_relay_works_at_a_time(store_url):
    outbox.put("publish_tweet", {"n": 1})
    other = outbox.databases.make_store(store_url, "other")
    inside, result = threading.Event(), []

    def publish_elsewhere():
        inside.wait(10)
        result.append(outbox.relay(ListBus(), older_than_seconds=0))

    thread = threading.Thread(target=publish_elsewhere)
    thread.start()
    with outbox.exclusive("relay") as held:
        assert held
        inside.set()
        thread.join(20)
    other.close_all()
    assert result == [0]
    assert outbox.relay(ListBus(), older_than_seconds=0) == 1


def test_many_rows_are_put_in_order_and_removed_by_their_ids(store_url):
    with outbox.transaction():
        ids = outbox.put_many("x", ((str(n), {"n": n}, f"id-{n}") for n in range(2500)))
    assert [entry.message_id for entry in outbox.pending(limit=5000)] == [
        f"id-{n}" for n in range(2500)
    ]
    assert outbox.remove(ids[:2499]) == 2499
    (left,) = outbox.pending()
    assert (left.key, left.payload, left.message_id) == ("2499", '{"n":2499}', "id-2499")
    assert outbox.put_many("x", []) == []


def test_the_inbox_tells_new_messages_from_repeats_and_doubles(store_url):
    with outbox.transaction():
        assert outbox.unseen("q", ["b", "a", "b"]) == ["b", "a"]
    with outbox.transaction():
        assert outbox.unseen("q", ["a", "c"]) == ["c"]
        assert outbox.unseen("other", ["a"]) == ["a"]
        assert outbox.unseen("q", []) == []


def test_a_message_whose_transaction_failed_is_new_again(store_url):
    roll_back(lambda: outbox.unseen("q", ["a"]))
    assert outbox.unseen("q", ["a"]) == ["a"]


def test_old_inbox_rows_are_forgotten(store_url):
    outbox.unseen("q", ["a"])
    assert outbox.forget(3600) == 0
    assert outbox.forget(-1) == 1
    assert outbox.unseen("q", ["a"]) == ["a"]


def test_a_transaction_inside_another_joins_it(store_url):
    def put_in_a_transaction_of_its_own():
        with outbox.transaction():
            outbox.put("publish_tweet", {"n": 1})

    roll_back(put_in_a_transaction_of_its_own)
    assert outbox_rows() == 0


def test_faults_of_a_message_are_no_outage(store_url):
    for statement in ("SELECT nothing FROM feedbus_outbox", "SELECT 1 +", "SELECT substr()"):
        with pytest.raises(peewee.PeeweeException) as caught:
            outbox.database.execute_sql(statement)
        assert not outbox.outage(caught.value), statement
    outbox.put("x", {})
    row = outbox.pending()[0]
    with pytest.raises(peewee.IntegrityError) as doubled:
        outbox.Outbox.insert(
            id=row.id, exchange="x", routing_key="", payload="{}", message_id="m"
        ).execute()
    assert not outbox.outage(doubled.value)
    assert not outbox.outage(ValueError("what a handler raised"))


def test_missing_tables_are_an_outage_that_says_what_to_do(empty_store_url):
    outbox.open_store(empty_store_url)
    with pytest.raises(Outage, match="feedbus migrate"), outbox.transaction():
        outbox.put("publish_tweet", {"n": 1})


def test_an_outage_in_a_transaction_is_raised_as_one(store_url):
    with pytest.raises(Outage), outbox.transaction():
        raise AWAY
    assert outbox.outage(Outage("x"))


def test_each_thread_has_its_own_transaction(store_url):
    seen = []

    def count():
        seen.append(outbox_rows())

    with outbox.transaction():
        outbox.put("x", {})
        thread = threading.Thread(target=count)
        thread.start()
        thread.join(20)
    assert seen == [0]


def test_ping_asks_a_store_without_opening_it(store_url):
    bound = outbox.database.obj
    outbox.ping(store_url)
    assert outbox.database.obj is bound
    with pytest.raises(Outage, match="refused"):
        outbox.ping(f"postgresql://nobody:secret@127.0.0.1:{free_port()}/x")


def test_a_url_that_is_none_of_a_store_is_refused():
    for url in ("mysql://x/y", "sqlite:///relative.db", "nonsense", "postgresql://h/d?nope=1"):
        with pytest.raises(UsageError, match="store url"):
            outbox.open_store(url)


def test_using_the_store_before_it_is_open_says_so():
    outbox.close_store()
    with pytest.raises(UsageError, match="open_store"), outbox.transaction():
        pass


# SQLite


def test_the_sqlite_file_is_for_its_owner_alone_and_its_folder_is_made(tmp_path: Path):
    path = tmp_path / "new" / "feeds.db"
    outbox.open_store(f"sqlite:///{path}")
    outbox.create_tables()
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    outbox.close_store()
    assert modes == {"feeds.db": 0o600, "feeds.db-wal": 0o600, "feeds.db-shm": 0o600}


def test_a_process_that_leaves_does_not_take_the_log_of_those_that_stay(tmp_path: Path):
    path = tmp_path / "feeds.db"
    ask = (
        "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"
    )
    query = "SELECT count(*) FROM feedbus_outbox"
    outbox.open_store(f"sqlite:///{path}")
    try:
        outbox.create_tables()
        other = threading.Thread(target=outbox.database.execute_sql, args=["SELECT 1"])
        other.start()
        other.join()
        subprocess.run([sys.executable, "-c", ask, path, query], check=True)
        outbox.put("e", {}, "k")
        told = subprocess.run(
            [sys.executable, "-c", ask, path, query], check=True, capture_output=True, text=True
        ).stdout
    finally:
        outbox.close_store()
    assert told == "1\n"


def test_sqlite_commits_survive_a_power_cut(tmp_path: Path):
    outbox.open_store(f"sqlite:///{tmp_path}/feeds.db")
    asked = {name: outbox.database.pragma(name) for name in ("journal_mode", "synchronous")}
    outbox.close_store()
    assert asked == {"journal_mode": "wal", "synchronous": 2}


def test_a_locked_sqlite_file_is_an_outage_and_loses_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(outbox.databases, "BUSY_TIMEOUT_SECONDS", 0.05)
    path = tmp_path / "feeds.db"
    outbox.open_store(f"sqlite:///{path}")
    outbox.create_tables()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Outage, match="locked"), outbox.transaction():
        outbox.put("x", {"n": 1})
    other.execute("ROLLBACK")
    other.close()
    with outbox.transaction():
        outbox.put("x", {"n": 2})
    assert [entry.payload for entry in outbox.pending()] == ['{"n":2}']
    outbox.close_store()


def test_sqlite_writers_take_turns_and_one_that_waits_in_vain_gives_up(tmp_path: Path):
    path = str(tmp_path / "turn")
    first, second, third = Turn(path), Turn(path), Turn(path)
    assert first.take(0)
    assert not second.take(0.05)
    got = []
    waiting = threading.Thread(target=lambda: got.append(third.take(20)))
    waiting.start()
    first.give()
    waiting.join(20)
    assert got == [True]
    assert not first.take(0.05)
    third.give()
    third.give()
    assert second.take(20)  # its earlier place in the queue was given up, so nobody else holds it
    second.give()


def test_a_writer_killed_in_its_transaction_gives_its_turn_away(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/feeds.db"
    outbox.open_store(url)
    outbox.create_tables()
    program = (
        f"import os; from feedbus import outbox; outbox.open_store({url!r})\n"
        "with outbox.transaction():\n    outbox.put('x', {'n': 1}); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == -9
    with outbox.transaction():
        outbox.put("x", {"n": 2})
    assert [entry.payload for entry in outbox.pending()] == ['{"n":2}']
    outbox.close_store()


def test_a_file_that_is_no_database_is_an_outage_in_words(tmp_path: Path):
    path = tmp_path / "feeds.db"
    path.write_text("not a database " * 100)
    outbox.open_store(f"sqlite:///{path}")
    with pytest.raises(Outage, match="no SQLite database"):
        outbox.ready()
    outbox.close_store()
    assert path.read_text().startswith("not a database")


def test_a_folder_that_cannot_be_made_is_an_outage_in_words(tmp_path: Path):
    (tmp_path / "file").write_text("")
    outbox.open_store(f"sqlite:///{tmp_path}/file/feeds.db")
    with pytest.raises(Outage, match="cannot be opened"):
        outbox.ready()
    outbox.close_store()


def test_a_store_that_cannot_be_written_is_an_outage_in_words(tmp_path: Path):
    outbox.open_store(f"sqlite:///{tmp_path}/feeds.db")
    outbox.create_tables()
    outbox.database.pragma("query_only", 1)  # as a read-only file is to those who are not root
    with pytest.raises(Outage, match="writable"), outbox.transaction():
        outbox.put("x", {})
    outbox.close_store()


def test_a_full_sqlite_file_is_an_outage_and_what_was_there_stays(tmp_path: Path):
    outbox.open_store(f"sqlite:///{tmp_path}/feeds.db")
    outbox.create_tables()
    outbox.put("x", {"n": 1})
    outbox.database.pragma("max_page_count", outbox.database.pragma("page_count"))
    with pytest.raises(Outage, match="full"), outbox.transaction():
        outbox.put("x", {"text": "x" * 1_000_000})
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}']
    outbox.close_store()


# PostgreSQL


@pytest.fixture
def postgres_url(postgres: Postgres):
    url = postgres.new_database()
    outbox.open_store(url)
    outbox.create_tables()
    yield url
    outbox.close_store()
    postgres.drop_database(url)


def end_sessions(postgres: Postgres) -> None:
    postgres.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND application_name = 'feedbus'"
    )


@pytest.mark.integration
def test_a_transaction_whose_session_was_ended_is_an_outage_and_the_next_one_works(
    postgres: Postgres, postgres_url
):
    def write():
        with outbox.transaction():
            outbox.put("x", {"n": 1})
            end_sessions(postgres)
            outbox.put("x", {"n": 2})

    with pytest.raises(Outage):
        write()
    with outbox.transaction():
        outbox.put("x", {"n": 3})
    assert [entry.payload for entry in outbox.pending()] == ['{"n":3}']


@pytest.mark.integration
def test_a_transaction_that_begins_on_an_ended_session_does_not_notice(
    postgres: Postgres, postgres_url
):
    outbox.ready()
    end_sessions(postgres)
    with outbox.transaction():
        outbox.put("x", {"n": 1})
    end_sessions(postgres)
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}']


def in_transaction() -> bool:
    """Whether the server has begun a transaction on this thread's connection."""
    return bool(outbox.database.connection().info.transaction_status != TRANSACTION_STATUS_IDLE)


@pytest.mark.integration
def test_a_transaction_begins_on_the_server_with_its_first_statement(postgres_url):
    with outbox.transaction():
        assert not in_transaction()
        outbox.put("x", {"n": 1})
        assert in_transaction()
    assert not in_transaction()
    with outbox.transaction(), outbox.database.atomic():
        outbox.put("x", {"n": 2})
    with outbox.transaction():
        pass
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}', '{"n":2}']


@pytest.mark.integration
@pytest.mark.parametrize("sql", ["SELECT 1/0", "SELECT nothing", "no SQL at all"])
def test_a_transaction_whose_first_statement_fails_is_rolled_back(postgres_url, sql):
    with pytest.raises(peewee.PeeweeException), outbox.transaction():
        outbox.database.execute_sql(sql)
    assert not in_transaction()
    with outbox.transaction():
        outbox.put("x", {"n": 1})
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}']


@pytest.mark.integration
def test_a_transaction_that_begins_anew_on_another_session_is_rolled_back_as_a_whole(
    postgres: Postgres, postgres_url
):
    outbox.ready()
    end_sessions(postgres)

    def write_and_fail():
        with outbox.transaction():
            outbox.put("x", {"n": 1})
            outbox.put("x", {"n": 2})
            assert in_transaction()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert outbox.pending() == []


@pytest.mark.integration
def test_a_stopped_server_is_an_outage_until_it_is_back(postgres: Postgres, postgres_url):
    outbox.put("x", {"n": 1})
    postgres.kill()
    try:
        with pytest.raises(Outage), outbox.transaction():
            outbox.put("x", {"n": 2})
        with pytest.raises(Outage, match="refused"):
            outbox.ready()
    finally:
        postgres.start()
    outbox.ready()
    assert [entry.payload for entry in outbox.pending()] == ['{"n":1}']


@pytest.mark.integration
def test_a_statement_that_takes_too_long_is_the_messages_fault(postgres_url):
    outbox.open_store(f"{postgres_url}?options=-c%20statement_timeout%3D50")
    with pytest.raises(peewee.OperationalError, match="statement timeout") as caught:
        outbox.database.execute_sql("SELECT pg_sleep(20)")
    assert not outbox.outage(caught.value)


@pytest.mark.integration
def test_settings_of_the_url_go_before_the_defaults(postgres_url):
    def setting(name):
        return outbox.database.execute_sql(f"SHOW {name}").fetchone()[0]

    assert setting("statement_timeout") == "30s"
    assert setting("application_name") == "feedbus"
    outbox.open_store(f"{postgres_url}?application_name=mine&options=-c%20statement_timeout%3D7s")
    assert setting("statement_timeout") == "7s"
    assert setting("application_name") == "mine"


@pytest.mark.integration
def test_no_text_shows_the_password(postgres: Postgres):
    url = f"postgresql://nobody:s3cret@127.0.0.1:{postgres.port}/nowhere"
    outbox.open_store(url)
    with pytest.raises(Outage) as caught:
        outbox.ready()
    outbox.close_store()
    assert "s3cret" not in str(caught.value)
