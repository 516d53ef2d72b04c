"""Systems within a thread that are used again, and the store that their project prepares."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import StoreOutage, UsageError
from feedbus.inline import InlinePool, Project
from feedbus.store import NoStore, open_prepared, open_store
from feedbus.store.peewee import bound

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
[queues.reserve]
exchange = "orders"
routing_keys = ["chair"]
handler = "inline_shop:reserve"
[store]
url = "sqlite:///shop.db"
prepare = "inline_shop:prepare"
"""
MODULE = """\
import peewee
from marshmallow import Schema, fields
from feedbus import Reject, handler
from feedbus.store.peewee import database

class Order(Schema):
    id = fields.Integer(required=True)

class Reservation(peewee.Model):
    class Meta:
        database = database

def prepare(topology):
    with database:
        database.create_tables([Reservation])
        Reservation.create()

@handler(Order)
def reserve(order):
    if order["id"] < 0:
        raise Reject("no such order")
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "inline_shop.py").write_text(MODULE)
    return Project(config.load(tmp_path / "topology.toml"))


def test_a_system_is_used_again_until_messages_are_left_in_it(project):
    pool = InlinePool(project, NoStore())
    made = []
    for number in (1, 2, -3, 4):
        with pool.system() as system:
            assert system.is_empty()
            system.bus.publish("orders", {"id": number}, "chair")
            system.handle_ready()
            assert (len(system.dead_letters()), system.is_empty()) == (number < 0, number > 0)
            made.append(system)
    with pool.system() as nested, pool.system() as other:
        assert nested is not other
    first, second, third, fourth = made
    assert first is second is third is not fourth
    pool.close()


def test_a_project_prepares_its_store_with_its_own_models(project):
    store = open_prepared(project.topology)
    with store.transaction() as database:
        assert database.execute_sql("SELECT count(*) FROM reservation").fetchone() == (1,)
    store.close()


def test_a_store_that_prepare_leaves_open_does_not_stay_open(project):
    opens = "def prepare(topology):\n    feedbus.store.open_store(topology)\n"
    changed = f"import feedbus.store\n{MODULE}".replace("def prepare(topology):\n", opens)
    (project.topology.root / "inline_shop.py").write_text(changed)
    sys.modules.pop("inline_shop", None)
    store = open_prepared(project.topology)
    assert bound() is store
    store.close()
    with pytest.raises(UsageError, match="no store is open"):
        bound()


def test_an_outage_names_the_line_of_the_project_because_it_may_use_another_database(project):
    root = project.topology.root
    (root / "inline_shop.py").write_text(
        f"import sqlite3\n{MODULE}".replace(
            "    with database:\n",
            f"    sqlite3.connect('{root}/absent/other.db')\n    with database:\n",
        )
    )
    sys.modules.pop("inline_shop", None)
    line = rf"\(raised at {root}/inline_shop\.py:15\)$"
    with pytest.raises(StoreOutage, match=rf"^\[store\] prepare = .* cannot be opened.*{line}"):
        open_prepared(project.topology)
    store = open_store(project.topology)
    with pytest.raises(StoreOutage, match=rf"cannot be opened.* \(raised at {__file__}:\d+\)$"):  # noqa: SIM117 -- one is expected
        with store.transaction():
            sqlite3.connect(root / "absent" / "other.db")
    store.close()
