"""Queues with store = false, together with queues whose handlers run in transactions."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace

import pytest
from peewee import Database, IntegerField, Model

from feedbus import Bus, DeadLetter, Outage, Reject, handler
from feedbus.errors import UsageError
from feedbus.inline.loaded_projects import Project
from feedbus.inline.system import InlineSystem
from feedbus.store import open_store
from feedbus.store.peewee.lazy_transactions import WRITE
from feedbus.store.peewee.store import close_bound, database
from feedbus.testing import TestSystem
from feedbus.topology import Queue, StoreOptions, Topology
from feedbus.urls import parse_store_url
from tests.handlers_to_run import topology_of
from tests.small_topologies import queue
from tests.systems import System

pytestmark = pytest.mark.processes

IN_TRANSACTION: dict[str, bool] = {}


@handler
def book(record: dict, session: Database, bus: Bus) -> None:
    IN_TRANSACTION["book"] = session.in_transaction()
    bus.publish("work", record, key="mail")


@handler
async def mail(record: dict, bus: Bus) -> None:
    await asyncio.sleep(0)
    IN_TRANSACTION["mail"] = database.in_transaction()
    bus.publish("undone", {"n": record["n"]}, key="done")


@handler
def mail_in_a_thread(record: dict, bus: Bus) -> None:
    IN_TRANSACTION["mail"] = database.in_transaction()
    bus.publish("undone", {"n": record["n"]}, key="done")


def beside_a_store(name: str) -> Topology:
    topology = topology_of(
        f"{__name__}:{name}",
        store=StoreOptions(url=parse_store_url("sqlite:///var/store.db")),
    )
    without = replace(topology.queues["work"], store=False, routing_keys=("mail",))
    books = Queue("book", "work", f"{__name__}:book", routing_keys=("book",), once=True)
    return replace(topology, queues={**topology.queues, "work": without, "book": books})


@pytest.mark.parametrize("name", ["mail", "mail_in_a_thread"])
def test_an_async_or_sync_handler_without_transaction_stands_beside_one_with_it(name):
    IN_TRANSACTION.clear()
    with TestSystem(beside_a_store(name)) as system:
        system.publish("work", {"n": 1}, key="book")
        system.run()
        assert [each.payload for each in system.published("undone")] == [{"n": 1}]
    assert IN_TRANSACTION == {"book": True, "mail": False}


def test_it_waits_for_no_outage_of_the_store(tmp_path):
    options = StoreOptions(url=parse_store_url(f"sqlite:///{tmp_path}/store.db"))
    topology = replace(beside_a_store("mail"), store=options)
    store = open_store(topology)
    with closing(store), InlineSystem(Project(topology), store) as system:
        system.bus.publish("work", {"n": 1}, key="mail")
        assert system.handle_ready() == 2
        system.bus.publish("work", {"n": 2}, key="book")
        with pytest.raises(Outage, match="tables are missing"):
            system.handle_ready()


def test_an_async_handler_in_a_transaction_is_refused_when_the_consumer_starts():
    topology = beside_a_store("mail")
    queues = {**topology.queues, "work": replace(topology.queues["work"], store=True)}
    with pytest.raises(UsageError, match="or store = false in the table of the queue"):
        TestSystem(replace(topology, queues=queues))


class Row(Model):
    """A row of the project."""

    n = IntegerField()

    class Meta:
        """The database of the store."""

        database = database


WRITES = {
    "create": lambda n: Row.create(n=n),
    "insert_many": lambda n: Row.insert_many([{"n": n}]).execute(),
    "update": lambda n: Row.update(n=n).execute(),
    "delete": lambda _n: Row.delete().execute(),
    "with": lambda n: database.execute_sql(
        "WITH a AS (SELECT ?) INSERT INTO row (n) SELECT 7", (n,)
    ),
}


@handler
def write(record: dict, bus: Bus) -> None:
    assert [row.n for row in Row.select()] == [0]
    assert Row.select(Row.n).with_cte(Row.select().cte("each_update")).count() == 1
    WRITES[record["write"]](1)
    msg = "too late"
    raise Reject(msg)


@handler
def write_in_a_transaction(record: dict, bus: Bus) -> None:
    with database.atomic():
        WRITES[record["write"]](1)


def undo(letter: DeadLetter) -> None:
    Row.create(n=2)


@pytest.mark.parametrize("how", WRITES)
def test_a_model_that_writes_without_a_transaction_is_refused(how):
    with TestSystem(beside_a_store("write")) as system:
        database.create_tables([Row])
        Row.create(n=0)  # a test may write at any time
        system.publish("work", {"write": how}, key="mail")
        system.run()
        (letter,) = system.dead_letters("work")
        assert "outside of a transaction: [queues.work] has store = false" in letter.reason
        assert "remove store = false, or write inside `with database.atomic():`" in letter.reason
        assert [row.n for row in Row.select()] == [0]


def test_a_model_may_write_in_a_transaction_of_its_own():
    with TestSystem(beside_a_store("write_in_a_transaction")) as system:
        database.create_tables([Row])
        system.publish("work", {"write": "create"}, key="mail")
        system.run()
        assert system.dead_letters("work") == []
        assert [row.n for row in Row.select()] == [1]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_process_refuses_such_writes_of_its_handlers_and_dead_handler(concurrency, tmp_path):
    options = {"store": False, "concurrency": concurrency, "order_by": concurrency > 1}
    system = System.at(tmp_path, queue(**options, dead_handler=f"{__name__}:undo"))
    database.create_tables([Row])
    Row.create(n=0)

    def create(_record: dict, _bus: Bus) -> None:
        Row.create(n=1)

    system.publish([1])
    system.run(create)
    (letter,) = system.dead()
    assert letter.reason.count("outside of a transaction: [queues.work] has store = false") == 2
    assert [row.n for row in Row.select()] == [0]
    Row.create(n=3)  # the consumer has ended
    close_bound()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("update row set n = 1", "UPDATE"),
        ("WITH a AS (SELECT 1) UPDATE row SET n = 1", "UPDATE"),
        ("WITH a AS (SELECT 1) DELETE  FROM row", "DELETE  FROM"),
        ("WITH a AS (SELECT 1) SELECT n FROM row FOR UPDATE OF row -- SET", None),
        ("SELECT 'update'", None),
    ],
)
def test_statements_that_write_are_recognised(statement: str, found: str | None) -> None:
    match = WRITE.match(statement)
    assert (match[match.lastindex or 0].upper() if match else None) == found
