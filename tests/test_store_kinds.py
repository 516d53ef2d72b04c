"""The stores on one kind of database: SQLite's lock and file, and a PostgreSQL that goes away."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
import sqlalchemy
from sqlalchemy import text

from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.store import Store
from feedbus.store.outbox_publishing import publish_pending
from feedbus.store.peewee import PeeweeStore
from feedbus.store.sqlalchemy import SqlAlchemyStore
from servers.postgres import Postgres
from tests.stores import MAKERS, PLAIN, engine


@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy"])
def test_sqlite_waits_for_its_turn_with_the_first_statement_and_outside_the_clock(kind, tmp_path):
    path, waits = tmp_path / "shop.db", []

    @contextlib.contextmanager
    def waiting():
        other.execute("ROLLBACK")  # so that the wait can end
        waits.append("waited")
        yield

    url = f"sqlite:///{path}"
    store: Store = (
        PeeweeStore(url, waiting=waiting)
        if kind == "peewee"
        else SqlAlchemyStore(engine(url), "shop", waiting=waiting)
    )
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE effects (n)")
    other.execute("BEGIN IMMEDIATE")
    execute = MAKERS[kind][1]
    with store.transaction():
        assert waits == []
    with store.transaction() as session:
        assert execute(session, "SELECT count(*) FROM effects").fetchall() == [(0,)]
        assert waits == ["waited"]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("BEGIN IMMEDIATE")
        execute(session, "INSERT INTO effects VALUES (1)")
    assert other.execute("SELECT n FROM effects").fetchall() == [(1,)]
    other.close()
    store.close()


def test_an_sqlalchemy_store_writes_again_when_its_file_is_no_longer_read_only(tmp_path):
    path, modes = tmp_path / "shop.db", ["rw", "ro"]
    own = engine(f"sqlite:///{path}")

    @sqlalchemy.event.listens_for(own, "do_connect")
    def connect(*_: object) -> sqlite3.Connection:
        mode = modes.pop() if modes else "rw"
        return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, check_same_thread=False)

    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE effects (n)")
    store = SqlAlchemyStore(own, "shop")
    for number, reason in enumerate(["it cannot be written", None]):
        expected = pytest.raises(StoreOutage, match=reason) if reason else contextlib.nullcontext()
        with expected, store.transaction() as session:
            session.execute(text(f"INSERT INTO effects VALUES ({number})"))
    with store.transaction() as session:
        assert session.execute(text("SELECT n FROM effects")).fetchall() == [(1,)]
    store.close()


class BusWithoutServers:
    """Publishes one message; then neither the broker nor the store is available for a moment."""

    def __init__(self, postgres: Postgres) -> None:
        self.published: list[str] = []
        self._postgres = postgres
        self._was_away = False

    def close(self):
        """Do nothing: there is no connection."""

    def selects_shards(self, _exchange):
        return True

    def publish_rows(self, rows):
        if self.published and not self._was_away:
            self._was_away = True
            end_sessions(self._postgres)
            return [BrokerOutage("the broker is away") for _ in rows]
        self.published += [row.payload for row in rows]
        return [None] * len(rows)


@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
def test_a_server_that_does_not_run_is_named_once_with_what_to_do(kind: str) -> None:
    store = MAKERS[kind][0]("postgresql://shop:secret@127.0.0.1:1/shop", "shop")
    with pytest.raises(StoreOutage) as raised:
        store.ready()
    said = str(raised.value)
    said = said.partition(" (raised at ")[0]  # the line of the example's own store
    assert said.count("store ") == 1
    assert "Connection refused" in said
    assert "refused Is the server" not in said
    assert said.endswith("; start the database, or correct the URL of the store")
    assert "secret" not in said


def end_sessions(postgres: Postgres) -> None:
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    postgres.sql(f"{ended} WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
def test_a_server_that_goes_away_is_an_outage_and_comes_back(kind, postgres):
    url = postgres.new_database()
    store = MAKERS[kind][0](url, "shop")
    store.set_up()
    end_sessions(postgres)
    with contextlib.suppress(
        StoreOutage
    ):  # the first call fails, unless the store connects again by itself
        store.ready()
    store.ready()

    def lose_the_connection() -> None:
        with store.transaction() as session:
            MAKERS[kind][1](session, "SELECT 1")
            end_sessions(postgres)
            store.outbox.put("orders", PLAIN)

    with pytest.raises(StoreOutage):
        lose_the_connection()
    assert store.outbox.pending() == []
    store.close()
    postgres.drop_database(url)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
@pytest.mark.parametrize("error", [ValueError("of the block"), BrokerOutage("the broker is away")])
def test_the_error_of_a_block_is_raised_also_if_the_store_goes_away_before_the_rollback(
    kind, error, postgres
):
    url = postgres.new_database()
    store = MAKERS[kind][0](url, "shop")
    store.set_up()

    def fail_without_store() -> None:
        with store.transaction():
            store.outbox.put("orders", PLAIN)
            end_sessions(postgres)
            raise error

    with pytest.raises(type(error), match=str(error)):
        fail_without_store()
    assert store.outbox.pending() == []
    store.close()
    postgres.drop_database(url)


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
def test_an_outage_of_the_store_does_not_replace_the_earlier_outage_of_the_broker(
    kind, postgres, caplog
):
    url = postgres.new_database()
    store = MAKERS[kind][0](url, "shop")
    store.set_up()
    for number in range(2):
        store.outbox.put("orders", {"n": number})
    bus = BusWithoutServers(postgres)
    with pytest.raises(BrokerOutage, match="the broker is away"):
        publish_pending(store, bus, "shop", older_than_seconds=0)
    assert "outbox_rows_left" in caplog.text
    assert publish_pending(store, bus, "shop", older_than_seconds=0) == 2
    assert bus.published == ['{"n":0}', '{"n":0}', '{"n":1}']
    store.close()
    postgres.drop_database(url)
