"""The problems that feedbus check reports about a store, and about parameters of handlers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = {{ type = "direct" }}
[queues.reserve]
exchange = "orders"
routing_keys = ["new"]
handler = "app:reserve"
{options}
[store]
{store}
"""
APP = """\
from __future__ import annotations
from typing import TYPE_CHECKING, Any
import sqlalchemy
from marshmallow import Schema
from sqlalchemy.orm import Session
from feedbus import Bus, handler
if TYPE_CHECKING:
    from decimal import Decimal

engine = sqlalchemy.create_engine("sqlite:///shop.db")
no_engine = "sqlite:///shop.db"

def prepare(topology): ...
def two(topology, more): ...
def unknown(topology): ...

class Database: ...
class Store:
    session_type = Database
    def __init__(self, topology): ...
class Sessionless:
    session_type = None
def open_store(topology) -> Store: ...
def open_sessionless(topology) -> Sessionless: ...

@handler(Schema)
def reserve({parameters}): ...
"""
SQLALCHEMY = 'adapter = "sqlalchemy"\nengine = "app:engine"'
PEEWEE = 'url = "sqlite:///shop.db"'


def check(
    folder: Path,
    store: str,
    parameters: str = "order, bus",
    options: str = "",
    *,
    app: str = APP,
) -> str:
    (folder / "topology.toml").write_text(TOPOLOGY.format(store=store, options=options))
    (folder / "app.py").write_text(app.format(parameters=parameters))
    words = [sys.executable, "-m", "feedbus", "check"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("store", "parameters"),
    [
        (SQLALCHEMY, "order: dict[str, Any], session: Session, bus: Bus"),
        (PEEWEE + '\nprepare = "app:prepare"', "order"),
        ('adapter = "app:open_store"', "order, database: Database"),
        ('adapter = "app:Store"', "order, database: Database"),
        ('adapter = "app:open_sessionless"', "order"),
    ],
)
def test_a_store_and_a_handler_that_fit_are_no_problem(tmp_path, store, parameters):
    assert "ok, 1 exchange" in check(tmp_path, store, parameters, "once = true")


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (
            PEEWEE + '\nprepare = "app:prepar"',
            (
                "toml:11:11: [store] prepare: the module app has no 'prepar'; did you mean"
                " 'app:prepare'?"
            ),
        ),
        (
            PEEWEE + '\nprepare = "nowhere:prepare"',
            "topology.toml:11:11: [store] prepare: cannot import nowhere: there is no such module",
        ),
        (
            PEEWEE + '\nprepare = "app:two"',
            "[store] prepare: expected a function that takes the topology, got two(topology, more)",
        ),
        (
            'adapter = "sqlalchemy"\nengine = "app:no_engine"',
            (
                "topology.toml:11:10: [store] engine: expected an SQLAlchemy engine, as"
                " create_engine() returns it, got a str"
            ),
        ),
        (
            'adapter = "app:two"',
            "[store] adapter: expected a function that takes the topology and returns a store",
        ),
        (
            'adapter = "app:unknown"',
            (
                "topology.toml:10:11: [store] adapter: expected def unknown(topology: Topology) ->"
                " a class whose session_type is a type or None, got unknown(topology)"
            ),
        ),
    ],
)
def test_what_a_store_names_and_does_not_fit_is_reported_at_its_place(tmp_path, store, said):
    assert said in check(tmp_path, store)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            "",
            (
                "reserve (app.py:26) has no parameter for the message: expected the message as its"
                " first parameter"
            ),
        ),
        (
            "order, price: int",
            (
                "has a parameter for which feedbus has no value: 'price: int': expected bus: Bus,"
                " message: Message, a Session, the value of a resource, or a default"
            ),
        ),
        (
            "order, price: Decimal",
            (
                "has the annotation 'price: Decimal', which cannot be evaluated (NameError:"
                " name 'Decimal' is not defined); define or import it at the top of the module,"
                " outside of TYPE_CHECKING"
            ),
        ),
        ("order, nothing", "has a parameter for which feedbus has no value: 'nothing'"),
    ],
)
def test_what_a_handler_asks_for_and_nobody_gives_is_a_problem(tmp_path, parameters, said):
    found = check(tmp_path, SQLALCHEMY, parameters)
    assert found.startswith("topology.toml:7:11: [queues.reserve] handler: reserve (app.py:26)")
    assert said in found


def test_a_session_needs_a_store_that_has_it_and_a_transaction(tmp_path):
    wanted = "order, session: Session"
    assert "a parameter for which feedbus has no value: 'session: Session'" in check(
        tmp_path, PEEWEE, wanted
    )
    assert "stream = true has no transaction" in check(
        tmp_path, SQLALCHEMY, wanted, "stream = true"
    )
    without = check(tmp_path, SQLALCHEMY, wanted, "store = false")
    assert "'session: Session' (there is a session only on a queue with a store)" in without


@pytest.mark.parametrize("store", [SQLALCHEMY, 'adapter = "app:open_sessionless"'])
def test_an_async_handler_or_dead_handler_beside_a_store_needs_store_false(tmp_path, store):
    options = 'dead_handler = "app:undo"\n'
    written = APP.replace("def reserve(", "async def reserve(") + "async def undo(letter): ...\n"
    found = check(tmp_path, store, "order", options, app=written)
    said = (
        "is async, but a transaction of the [store] can only be used in one thread:"
        " expected a handler that is defined with 'def', or store = false in the table of the queue"
    )
    assert f"topology.toml:7:11: [queues.reserve] handler: reserve (app.py:26) {said}" in found
    assert f"topology.toml:8:16: [queues.reserve] dead_handler: undo (app.py:28) {said}" in found
    assert "ok" in check(tmp_path, store, "order", f"{options}store = false", app=written)
    once = check(tmp_path, store, "order", "once = true\nstore = false", app=written)
    assert (
        "[queues.reserve] store: cannot be false with once = true: the store keeps the ids" in once
    )


def test_threads_that_need_more_connections_than_the_pool_of_the_engine_has_are_a_problem(tmp_path):
    said = (
        "topology.toml:8:15: [queues.reserve] concurrency: 15 concurrent records need 16"
        " connections to the store, but the pool of app:engine has 15: expected an engine with"
        " pool_size=16"
    )
    assert said in check(tmp_path, SQLALCHEMY, "order", "concurrency = 15\nonce = true")
    assert "ok" in check(tmp_path, SQLALCHEMY, "order", "concurrency = 15")
    assert "ok" in check(tmp_path, SQLALCHEMY, "order", "concurrency = 99\nstore = false")


def test_the_file_of_an_engine_is_the_same_from_wherever_the_system_is_started(tmp_path):
    check(tmp_path, SQLALCHEMY + '\nprepare = "app:prepare"', "order")
    app = tmp_path / "app.py"
    creation = "engine.connect().exec_driver_sql('CREATE TABLE mine (n integer)')"
    app.write_text(app.read_text().replace("prepare(topology): ...", f"prepare(_): {creation}"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = [sys.executable, "-m", "feedbus.supervisor.preparation", "../topology.toml"]
    subprocess.run(words, cwd=elsewhere, check=True)
    assert ((tmp_path / "shop.db").exists(), list(elsewhere.iterdir())) == (True, [])
    publish = "import feedbus; feedbus.connect('../topology.toml').transaction().__enter__()"
    words = [sys.executable, "-c", publish]
    done = subprocess.run(words, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert f"is relative to the working directory, which is {elsewhere} here" in done.stderr
    assert not list(elsewhere.iterdir())
