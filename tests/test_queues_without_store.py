"""Queues with store = false, together with queues whose handlers run in transactions."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace

import pytest
from peewee import Database

from feedbus import Bus, Outage, handler
from feedbus.errors import UsageError
from feedbus.inline.loaded_projects import Project
from feedbus.inline.system import InlineSystem
from feedbus.store import open_store
from feedbus.store.peewee.store import database
from feedbus.testing import TestSystem
from feedbus.topology import Queue, StoreOptions, Topology
from feedbus.urls import parse_store_url
from tests.handlers_to_run import topology_of

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
