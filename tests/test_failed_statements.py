"""A handler that catches the error of a statement, which PostgreSQL answers with a rollback."""

from __future__ import annotations

import contextlib
import sqlite3

import peewee
import pytest
import sqlalchemy

from feedbus.bus import LiveBus
from feedbus.errors import UsageError
from feedbus.store.peewee import PeeweeStore, bind, bound, database
from feedbus.store.peewee import sqlite as sqlite_of_peewee
from feedbus.store.sqlalchemy import SqlAlchemyStore
from tests.small_topologies import BATCH, queue
from tests.stores import engine
from tests.systems import System


def insert(number: int) -> None:
    database.execute_sql(f"INSERT INTO effects VALUES ({number})")


def effects() -> list[int]:
    return [n for (n,) in database.execute_sql("SELECT n FROM effects ORDER BY n")]


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_a_record_whose_effects_postgres_has_rolled_back_fails_and_sends_nothing(
    empty_store_url, tmp_path, batch
):
    options = {"batch": BATCH} if batch else {}
    system = System.at(
        tmp_path,
        queue(once=True, **options),
        queue("next", exchange="other", routing_keys=("n",)),
        store_url=empty_store_url,
    )
    database.execute_sql("CREATE TABLE effects (n integer PRIMARY KEY)")
    insert(2)

    def insert_each(numbers):
        for number in numbers:
            with contextlib.suppress(peewee.IntegrityError):
                insert(number)

    def handle(message, bus):
        bus.publish("other", message, "n")
        insert_each([message["n"]])

    def handle_all(records, _bus):
        records.publish("other", key="n", columns={"n": "n"})
        insert_each(records.column("n"))

    system.publish([1, 2, 3])
    system.run(handle_all if batch else handle, batch=batch, idle_seconds=1.0)
    assert effects() == [1, 2, 3]
    if bound().on_postgres:
        (letter,) = system.dead()
        assert "its error was caught" in letter.reason
        assert letter.attempts == 3
    assert system.ready() == {"work": 0, "next": 2 if bound().on_postgres else 3}
    assert bound().outbox.pending() == []


def test_a_block_of_a_bus_whose_effects_postgres_has_rolled_back_raises(empty_store_url, tmp_path):
    system = System.at(tmp_path, queue(), store_url=empty_store_url)
    if not bound().on_postgres:
        return  # SQLite rolls back only the statement
    database.execute_sql("CREATE TABLE effects (n integer PRIMARY KEY)")
    with LiveBus(system.topology, store=bound()) as bus:

        def insert_twice() -> None:
            with bus.transaction():
                bus.publish("work", {"n": 1})
                insert(1)
                with contextlib.suppress(peewee.IntegrityError):
                    insert(1)

        with pytest.raises(UsageError, match=r"in a block of database.atomic\(\)"):
            insert_twice()
    assert (effects(), system.ready(), bound().outbox.pending()) == ([], {"work": 0}, [])


@pytest.mark.parametrize("value", ["a\0b", object(), "\ud800"], ids=["NUL", "type", "surrogate"])
def test_after_a_first_statement_that_is_never_sent_the_second_one_begins_the_transaction(
    store_url, value
):
    database.execute_sql("CREATE TABLE effects (n integer)")
    mark = "%s" if bound().on_postgres else "?"

    def fail() -> None:
        with bound().transaction():
            with contextlib.suppress(ValueError, peewee.PeeweeException):
                database.execute_sql(f"SELECT {mark}", (value,))
            insert(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert effects() == []


def test_after_a_wait_for_sqlite_in_vain_the_next_statement_begins_the_transaction(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sqlite_of_peewee, "BUSY_TIMEOUT_SECONDS", 0.1)
    path = tmp_path / "shop.db"
    store = bind(PeeweeStore(f"sqlite:///{path}"))
    database.execute_sql("CREATE TABLE effects (n integer)")
    other = sqlite3.connect(path, isolation_level=None)

    def fail() -> None:
        with store.transaction():
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(peewee.OperationalError, match="locked"):
                insert(1)
            other.execute("ROLLBACK")
            insert(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert effects() == []
    other.close()
    store.close()


@pytest.mark.parametrize("way", ["create_engine", "execution_options", "driver", "connection"])
def test_an_sqlalchemy_engine_that_commits_each_statement_is_refused(postgres, way):
    url = postgres.new_database()
    made = engine(url)
    if way == "create_engine":
        made = sqlalchemy.create_engine(made.url, isolation_level="AUTOCOMMIT")
    elif way == "execution_options":
        made = made.execution_options(isolation_level="AUTOCOMMIT")
    elif way == "driver":

        @sqlalchemy.event.listens_for(made, "connect")
        def commit_each(connection, _record) -> None:
            connection.autocommit = True

    def use() -> None:
        store = SqlAlchemyStore(made, "shop")
        with store.transaction() as session:
            if way == "connection":
                session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            session.execute(sqlalchemy.text("SELECT 1"))

    with pytest.raises(UsageError, match=r"expected an engine with transactions, got isolation"):
        use()
    made.dispose()
    postgres.drop_database(url)
