"""Stores under TestSystem: the outbox, transactions, `once` and the project's own engine."""

from __future__ import annotations

from contextlib import closing

import pytest

from feedbus.errors import UsageError
from feedbus.store import open_store
from tests.shops import Shop, order

ONCE = """
[store]
url = "sqlite:///shop.db"
[queues.paid]
exchange     = "receipts"
routing_keys = ["paid"]
handler      = "{module}:mail"
once         = true
"""

ALCHEMY = """
[store]
adapter = "sqlalchemy"
engine  = "{module}:engine"
[queues.paid]
exchange     = "receipts"
routing_keys = ["paid"]
handler      = "{module}:pay"
once         = true
"""
PAY = """
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
with engine.begin() as connection:
    connection.execute(text("create table paid (id integer)"))

@handler(Order)
def pay(order, session: Session):
    session.execute(text("insert into paid values (:id)"), {"id": order["id"]})
"""


def test_what_a_program_puts_into_the_outbox_is_published_by_the_next_run(tmp_path):
    shop = Shop(tmp_path)
    shop = Shop(tmp_path, ONCE.format(module=shop.name))
    system = shop.system()
    store = open_store(system.topology)
    with system, closing(store):
        with store.transaction():
            store.outbox.put("receipts", order(), "paid")
        assert system.run() == 1
        assert not store.outbox.pending()
        assert [each.payload["id"] for each in system.handled("paid")] == [1]


def test_code_that_publishes_in_a_transaction_gets_the_systems_bus(tmp_path):
    shop = Shop(tmp_path)
    shop = Shop(tmp_path, ONCE.format(module=shop.name))
    with shop.system() as system:
        with system.bus.transaction():
            system.bus.publish("receipts", order(1), key="paid")
            assert system.published() == []
            with pytest.raises(UsageError, match="end the transaction first"):
                system.run()

        def fail():
            with system.bus.transaction():
                system.bus.publish("receipts", order(2), key="paid")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert system.run() == 1
        assert [each.payload["id"] for each in system.handled("paid")] == [1]


def test_a_transaction_without_a_store_is_refused(tmp_path):
    with (
        Shop(tmp_path).system() as system,
        pytest.raises(UsageError, match="store"),
        system.bus.transaction(),
    ):
        pass


def test_a_handler_gets_the_session_of_the_projects_own_engine(tmp_path):
    shop = Shop(tmp_path, handlers=PAY)
    shop = Shop(tmp_path, ALCHEMY.format(module=shop.name), PAY)
    with shop.system() as system:
        for _ in range(2):
            system.publish("receipts", order(7), key="paid", message_id="same")
        system.run()
        assert len(system.handled("paid")) == 1
        assert system.dead_letters() == []


def test_once_works_on_an_empty_store_of_its_own(tmp_path):
    shop = Shop(tmp_path)
    shop = Shop(tmp_path, ONCE.format(module=shop.name))
    for _ in range(2):
        with shop.system() as system:
            for _ in range(2):
                system.publish("receipts", order(), key="paid", message_id="same")
            system.run()
            assert len(system.handled("paid")) == 1
    assert not (tmp_path / "shop.db").exists()
