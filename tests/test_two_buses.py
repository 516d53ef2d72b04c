"""Several buses and stores in one process: they share a database, or they are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import peewee
import pytest
import sqlalchemy
from sqlalchemy import text

import feedbus
from feedbus.errors import StoreOutage, UsageError
from feedbus.store import Store, open_store
from feedbus.store.peewee import PeeweeStore, bound, database
from feedbus.store.sqlalchemy import SqlAlchemyStore
from feedbus.testing import TestSystem
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_store_url
from tests.shops import Shop, order
from tests.small_topologies import queue
from tests.stores import MAKERS
from tests.system_fixtures import closing_store
from tests.systems import System

STORE = """
[store]
url     = "sqlite:///shop.db"
prepare = "{module}:create"
[queues.paid]
exchange     = "receipts"
routing_keys = ["paid"]
handler      = "{module}:pay"
{option}
"""
PAY = """
import peewee
from feedbus.store.peewee import database

class Paid(peewee.Model):
    n = peewee.IntegerField()

    class Meta:
        database = database

def create(topology) -> None:
    database.create_tables([Paid])

own = []  # the bus of the program
refused = []

@handler(Order)
def pay(order) -> None:
    with database.atomic():
        Paid.create(n=1)
    try:
        with own[0].transaction():
            Paid.create(n=2)
            own[0].publish("events", order)
    except Exception as error:
        refused.append(error)
    with database.atomic():
        Paid.create(n=3)
    if order["quantity"] > 1:
        raise Reject("more than one")
"""


class Log(peewee.Model):
    """A model of the project."""

    what = peewee.TextField()

    class Meta:
        """The database that feedbus connects to the store."""

        database = database


def logged() -> list[str]:
    return [row.what for row in Log.select().order_by(Log.id)]


@pytest.fixture
def topology(tmp_path: Path) -> Iterator[Topology]:
    """The topology of a system whose store is not open yet."""
    with closing_store():
        made = System.at(tmp_path, queue()).topology
    with closing_store():
        yield made


def elsewhere(topology: Topology, path: Path) -> Topology:
    """Return the topology of a second project, with a database of its own."""
    url = parse_store_url(f"sqlite:///{path}")
    return replace(topology, name="elsewhere", store=StoreOptions(url=url))


def fail_in(bus: feedbus.LiveBus, what: str) -> None:
    with bus.transaction():
        Log.create(what=what)
        bus.publish("work", {"n": 1})
        raise ZeroDivisionError


def test_the_models_of_a_process_are_in_the_transactions_of_all_its_buses(topology) -> None:
    first, second = feedbus.connect(topology), feedbus.connect(topology)
    with first.transaction():
        database.create_tables([Log])
    with second.transaction():
        Log.create(what="second")
    with pytest.raises(ZeroDivisionError):
        fail_in(first, "first")
    assert logged() == ["second"]
    with first.transaction():
        first.publish("work", {"n": 1})  # the row in the outbox locks the SQLite file
        Log.create(what="first")
    second.close()
    second.close()
    with first.transaction():
        Log.create(what="after the other was closed")
    assert logged() == ["second", "first", "after the other was closed"]
    first.close()
    with pytest.raises(UsageError, match="no store is open"):
        bound()


@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy"])
def test_a_transaction_of_another_bus_within_a_transaction_is_refused(
    topology, tmp_path, kind
) -> None:
    make = MAKERS[kind][0]
    stores: list[Store] = [make(f"sqlite:///{tmp_path}/{n}.db", "shop") for n in (1, 2)]
    first, second = (feedbus.connect(topology, store=store) for store in stores)

    def nest() -> None:
        with first.transaction(), second.transaction():
            pass

    for store in stores:
        store.set_up()
    with pytest.raises(UsageError, match="begun without this bus"):
        nest()
    with first.transaction():
        pass
    with second.transaction():
        pass
    for store in stores:
        store.close()


def test_the_stores_of_one_engine_have_one_transaction_in_a_thread(topology, tmp_path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db")
    stores = [SqlAlchemyStore(engine, "shop") for _ in range(2)]
    stores[0].set_up()
    bus = feedbus.connect(topology, store=stores[1])

    def nest() -> None:
        with stores[0].transaction() as session:
            session.execute(text("CREATE TABLE effects (n)"))
            with stores[1].transaction() as joined:
                assert joined is session
            with bus.transaction():
                pass

    with pytest.raises(UsageError, match="begun without this bus"):
        nest()
    assert sqlalchemy.inspect(engine).get_table_names() == [
        "feedbus_inbox",
        "feedbus_outbox",
        "feedbus_version",
    ]
    engine.dispose()


@pytest.mark.parametrize("quantity", [1, 2])
def test_a_handler_cannot_commit_by_a_transaction_of_its_own_bus(tmp_path, quantity) -> None:
    app = Shop(tmp_path, handlers=PAY)
    shop = Shop(tmp_path, STORE.format(module=app.name, option=""))
    with shop.system() as system, feedbus.connect(system.topology) as own:
        app.module.own.append(own)
        system.publish("receipts", order(1, quantity=quantity), key="paid")
        system.run()
        assert ["begun without this bus" in str(error) for error in app.module.refused] == [True]
        rows = [row.n for row in app.module.Paid.select()]
        assert rows == ([1, 3] if quantity == 1 else [])
        assert system.published("events") == []


def test_a_handler_without_a_transaction_can_use_a_bus_of_its_own(tmp_path) -> None:
    app = Shop(tmp_path, handlers=PAY)
    shop = Shop(tmp_path, STORE.format(module=app.name, option="store = false"))
    with shop.system() as system, feedbus.connect(system.topology) as own:
        app.module.own.append(own)
        system.publish("receipts", order(1), key="paid")
        system.run()
        assert app.module.refused == []
        assert [row.n for row in app.module.Paid.select()] == [1, 2, 3]

        def run_within() -> None:
            with own.transaction():
                system.run()

        with pytest.raises(UsageError, match="end the transaction first"):
            run_within()


def test_the_models_do_not_change_to_another_database_while_a_store_is_open(
    topology, tmp_path
) -> None:
    other = elsewhere(topology, tmp_path / "other.db")
    with feedbus.connect(topology) as bus:
        with bus.transaction():
            database.create_tables([Log])
        for open_other in (open_store, TestSystem):
            with pytest.raises(UsageError, match="cannot open store sqlite") as refused:
                open_other(other)
            assert f"use store sqlite:///{tmp_path}/store.db, which is open" in str(refused.value)
        with bus.transaction():
            Log.create(what="still here")
        assert logged() == ["still here"]
    for used in (other, topology, other):  # one after the other
        with feedbus.connect(used) as bus, bus.transaction():
            assert Log.table_exists() == (used is topology)


def test_a_second_project_with_models_of_its_own_gets_its_own_store(topology, tmp_path) -> None:
    class Other(peewee.Model):
        n = peewee.IntegerField()

    other = elsewhere(topology, tmp_path / "other.db")
    store = PeeweeStore(f"sqlite:///{tmp_path}/other.db", "elsewhere")
    store.set_up()
    store.database.bind([Other])
    store.database.create_tables([Other])
    with feedbus.connect(topology) as first, feedbus.connect(other, store=store) as second:
        with first.transaction():
            database.create_tables([Log])
            Log.create(what="first")
        with contextlib.suppress(ZeroDivisionError), second.transaction():
            Other.create(n=1)
            raise ZeroDivisionError
        with second.transaction():
            Other.create(n=2)
        assert (logged(), [row.n for row in Other.select()]) == (["first"], [2])
    store.close()


def test_a_store_that_cannot_be_set_up_does_not_stay_open(topology, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    bus = feedbus.connect(elsewhere(topology, tmp_path / "file" / "store.db"))
    with pytest.raises(StoreOutage), bus.transaction():
        pass
    with feedbus.connect(topology) as bus, bus.transaction():
        database.create_tables([Log])
    with pytest.raises(UsageError, match="no store is open"):
        bound()


def test_a_forked_process_opens_its_own_connections(topology) -> None:
    with feedbus.connect(topology) as bus:
        with bus.transaction():
            database.create_tables([Log])
        opened = bound().database
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                with bus.transaction():
                    Log.create(what="child")
                os._exit(int(bound().database is opened))
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with bus.transaction():
            Log.create(what="parent")
        assert logged() == ["child", "parent"]


def test_a_store_that_shares_the_file_uses_its_own_context_manager_around_the_waits(
    topology,
) -> None:
    waits: list[Any] = []

    @contextlib.contextmanager
    def waiting() -> Iterator[None]:
        waits.append("waited")
        yield

    with feedbus.connect(topology) as bus:
        with bus.transaction():
            database.create_tables([Log])
        store = open_store(topology, waiting=waiting)
        with store.transaction():
            Log.create(what="consumer")
        assert waits == ["waited"]
        store.close()
