"""What users test their systems with, used as they would: from a folder with two files."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from feedbus import Outage
from feedbus.errors import TopologyError, Unroutable, UsageError
from feedbus.inline import NeverDone
from feedbus.inline.loaded_projects import project
from feedbus.store import open_store
from feedbus.testing import RecordingBus, TestSystem
from tests.pages import blocks
from tests.projects import PATIENCE_SECONDS

PAGE = Path(__file__).parents[1] / "docs/how-to/testing.md"
TOPOLOGY = """
name = "shop"
[exchanges]
orders   = {{ type = "x-consistent-hash" }}
packed   = {{ type = "x-consistent-hash", pack = 50 }}
receipts = {{ type = "topic" }}
events   = {{ type = "fanout" }}
work     = {{ type = "direct" }}
[queues.reserve]
exchange = "orders"
shards   = 4
handler  = "{module}:reserve"
[queues.count]
exchange = "packed"
shards   = 3
handler  = "{module}:count"
batch    = {{ size = 100 }}
[queues.mail]
exchange     = "receipts"
routing_keys = ["mail.#"]
handler      = "{module}:mail"
[queues.echo]
exchange     = "work"
routing_keys = ["echo"]
handler      = "{module}:echo"
{more}
"""

HANDLERS = """
from marshmallow import Schema, fields
from feedbus import Bus, Outage, Records, Reject, Retry, handler

class Order(Schema):
    id = fields.Int(strict=True, required=True)
    customer = fields.Str(required=True)
    quantity = fields.Int(strict=True, load_default=1)

class Any_(Schema):
    n = fields.Int(strict=True)

failures = []     # raised by mail, one a call
moments = []

@handler(Order)
def reserve(order, bus: Bus) -> None:
    if order["quantity"] < 1:
        raise Reject("quantity must be positive")
    bus.publish("receipts", order, key=f"mail.{order['customer']}")

@handler(Order, batch=True)
def count(orders: Records, bus: Bus) -> None:
    for order in orders.singles():
        if order.first["quantity"] < 1:
            order.reject("quantity must be positive")

@handler(Order)
def mail(order, bus: Bus) -> None:
    if failures:
        raise failures.pop(0)

@handler(Any_)
def echo(message, bus: Bus) -> None:
    bus.publish("work", message, key="echo")
"""

ONCE = """
[store]
url = "sqlite:///shop.db"
[queues.paid]
exchange     = "receipts"
routing_keys = ["paid"]
handler      = "{module}:mail"
once         = true
"""

numbers = itertools.count()


class Shop:
    """A folder with a topology and its handlers, as a user has it."""

    def __init__(self, folder: Path, more: str = "", handlers: str = ""):
        self.folder = folder
        self.name = f"shop_of_test_{next(numbers)}"
        (folder / f"{self.name}.py").write_text(HANDLERS + handlers)
        self.topology = folder / "topology.toml"
        self.topology.write_text(TOPOLOGY.format(module=self.name, more=more))

    @property
    def module(self):
        return sys.modules[self.name]

    def system(self, **options):
        return TestSystem(self.topology, **options)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def system(shop):
    with shop.system() as system:
        yield system
        shop.module.failures.clear()


def order(number=1, **fields):
    return {"id": number, "customer": "ann", **fields}


def test_what_a_handler_publishes_reaches_the_next_handler(system):
    system.publish("orders", order(), key="chair")
    assert system.run() == 2
    assert [each.key for each in system.published("receipts")] == ["mail.ann"]
    assert [each.payload for each in system.handled("mail")] == [order(quantity=1)]
    assert system.dead_letters() == []


def test_a_rejected_message_is_a_dead_letter_with_its_reason(system):
    system.publish("orders", order(quantity=0), key="chair")
    system.run()
    (letter,) = system.dead_letters("reserve")
    assert (letter.reason, letter.key) == ("quantity must be positive", "chair")
    assert letter.payload == order(quantity=0)
    assert system.dead_letters("mail") == []
    assert system.dead_letters("reserve") == [letter] or len(system.dead_letters()) == 1


def test_what_does_not_validate_is_a_dead_letter_with_each_fields_errors(system):
    system.publish("orders", {"id": "x", "customer": "ann"}, key="chair")
    system.run()
    assert system.dead_letters("reserve")[0].errors == {"id": ["Not a valid integer."]}
    assert system.handled("reserve") == []


def test_retries_of_minutes_come_at_once_and_the_clock_shows_when(shop):
    with shop.system(now=datetime(2026, 1, 31, tzinfo=UTC)) as system:
        shop.module.failures[:] = [RuntimeError("down")] * 3
        system.publish("receipts", order(), key="mail.ann")
        system.run()
        errors = [each.error for each in system.handled("mail")]
        assert [str(error) for error in errors] == ["down", "down", "down", "None"]
        assert system.dead_letters() == []
        assert system.clock.now() == datetime(2026, 1, 31, 0, 1, 11, tzinfo=UTC)  # 1 + 10 + 60 s


def test_a_message_that_always_fails_is_a_dead_letter_after_its_last_retry(shop, system):
    shop.module.failures[:] = [RuntimeError("down")] * 9
    system.publish("receipts", order(), key="mail.ann")
    system.run()
    (letter,) = system.dead_letters()
    assert (letter.reason, letter.attempts) == ("RuntimeError: down", 5)
    assert system.clock.monotonic() == 671
    assert len(shop.module.failures) == 4


def test_a_retry_with_a_wait_of_its_own_comes_after_that(shop, system):
    shop.module.failures.append(shop.module.Retry("busy", after_seconds=86_400))
    system.publish("receipts", order(), key="mail.ann")
    system.run()
    assert len(system.handled("mail")) == 2
    assert system.clock.monotonic() == 86_400


def test_advance_lets_some_time_pass_and_handles_what_is_due_meanwhile(shop, system):
    shop.module.failures[:] = [RuntimeError("down")] * 2
    system.publish("receipts", order(), key="mail.ann")
    assert system.advance(0) == 1
    assert (system.retries(), system.retries("mail"), system.retries("echo")) == (1, 1, 0)
    assert system.delayed() == 0
    assert system.advance(5) == 1
    assert system.clock.monotonic() == 5
    assert system.advance(5) == 0
    assert system.advance(5) == 1
    assert system.retries() == 0


def test_a_dead_letter_stays_where_it_is_however_often_it_is_looked_at(system):
    for number in range(3):
        system.publish("orders", order(number, quantity=0), key="chair")
    system.run()
    for _ in range(3):
        assert [each.payload["id"] for each in system.dead_letters("reserve")] == [0, 1, 2]


def test_messages_of_one_key_are_handled_in_order_by_one_shard(system):
    for number in range(60):
        system.publish("orders", order(number), key=f"key {number % 6}")
    system.run()
    handled = system.handled("reserve")
    assert len({each.consumer for each in handled}) > 1
    for key in range(6):
        of_key = [each for each in handled if each.payload["id"] % 6 == key]
        assert len({each.consumer for each in of_key}) == 1
        assert [each.payload["id"] for each in of_key] == list(range(key, 60, 6))


def test_a_batch_handler_gets_what_waits_and_its_verdicts_are_seen(system):
    for number in range(40):
        system.publish("packed", order(number, quantity=number % 2), key=str(number))
    system.run()
    assert len(system.handled("count")) == 40
    assert sum(each.error is not None for each in system.handled("count")) == 20
    assert len(system.dead_letters("count")) == 20
    assert [each.payload["id"] for each in system.published("packed")] == list(range(40))


def test_an_outage_reaches_the_test_and_the_message_is_handled_after_it(shop, system):
    shop.module.failures.append(Outage("the printer is off"))
    system.publish("receipts", order(), key="mail.ann")
    with pytest.raises(Outage, match="the printer is off"):
        system.run()
    system.run()
    assert [type(each.error) for each in system.handled("mail")] == [Outage, type(None)]
    assert system.clock.monotonic() == 0  # it was no attempt


def test_signals_neither_end_a_run_early_nor_find_anything_changed(system):
    heard = []
    signal.set_wakeup_fd(-1)  # whatever an earlier test has left
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        for number in range(20):
            system.publish("orders", order(number), key=str(number))
            signal.raise_signal(signal.SIGUSR1)
        assert system.run() == 40
        assert (len(heard), signal.set_wakeup_fd(-1)) == (20, -1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_run_without_end_is_stopped_with_what_to_do(system):
    system.publish("work", {"n": 1}, key="echo")
    with pytest.raises(NeverDone, match=r"stopped after \d+ deliveries: .* without end"):
        system.run(most=50)


def test_a_key_that_no_queue_gets_and_an_exchange_that_is_not_there_are_errors(system):
    with pytest.raises(Unroutable):
        system.publish("receipts", order(), key="nowhere")
    with pytest.raises(UsageError, match="no exchange named 'reciepts'"):
        system.publish("reciepts", order(), key="mail.ann")
    for look in (system.published, system.dead_letters, system.handled, system.retries):
        with pytest.raises(UsageError, match="named 'reciepts'; expected one of"):
            look("reciepts")


def test_a_system_leaves_nothing_to_the_next_one(shop):
    for _ in range(2):
        with shop.system() as system:
            system.publish("orders", order(quantity=0), key="chair")
            system.run()
            assert len(system.dead_letters()) == 1
            assert len(system.published()) == 1


def test_a_changed_file_is_read_again(tmp_path):
    shop = Shop(tmp_path)
    with shop.system() as system:
        assert "late" not in system.topology.queues
    more = '[queues.late]\nexchange = "events"\nhandler = "{module}:mail"'
    shop = Shop(tmp_path, more.format(module=shop.name))
    with shop.system() as system:
        system.publish("events", order())
        system.run()
        assert len(system.handled("late")) == 1


def test_a_file_is_read_again_only_when_it_or_a_variable_in_it_has_changed(tmp_path, monkeypatch):
    shop = Shop(tmp_path)
    named = shop.topology.read_text().replace('name = "shop"', 'name = "${SHOP:-shop}"')
    shop.topology.write_text(named)
    first = project(shop.topology)
    monkeypatch.setenv("ANOTHER", "value")
    assert project(shop.topology) is first
    monkeypatch.setenv("SHOP", "branch")
    assert project(shop.topology).topology.name == "branch"


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


def test_a_transaction_without_a_store_is_refused(system):
    with pytest.raises(UsageError, match="store"), system.bus.transaction():
        pass


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


def test_a_handler_gets_the_session_of_the_projects_own_engine(tmp_path):
    shop = Shop(tmp_path, handlers=PAY)
    shop = Shop(tmp_path, ALCHEMY.format(module=shop.name), PAY)
    with shop.system() as system:
        for _ in range(2):
            system.publish("receipts", order(7), key="paid", message_id="same")
        system.run()
        assert len(system.handled("paid")) == 1
        assert system.dead_letters() == []


def test_a_file_with_mistakes_shows_all_of_them(tmp_path):
    (tmp_path / "topology.toml").write_text('name = "x"\n[queues.q]\nexchange = "none"\n')
    with pytest.raises(TopologyError, match="exchange"):
        TestSystem(tmp_path / "topology.toml")


def test_a_handler_that_is_not_there_is_an_error_before_anything_runs(tmp_path):
    (tmp_path / "topology.toml").write_text(
        'name = "x"\n[exchanges]\nw = { type = "direct" }\n'
        '[queues.q]\nexchange = "w"\nrouting_keys = [""]\nhandler = "nobody_wrote_it:h"\n'
    )
    with pytest.raises(UsageError, match="cannot import nobody_wrote_it"):
        TestSystem(tmp_path / "topology.toml")


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


def test_two_systems_are_apart_also_in_two_threads(shop):
    seen = []

    def use(number):
        with shop.system() as system:
            for _ in range(number):
                system.publish("orders", order(), key="chair")
            system.run()
            seen.append((number, len(system.handled("mail"))))

    threads = [threading.Thread(target=use, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert sorted(seen) == [(1, 1), (2, 2), (3, 3)]


def test_a_recording_bus_knows_the_exchanges_of_its_topology(shop):
    bus = RecordingBus(shop.topology)
    bus.publish("receipts", order(), key="mail.ann")
    assert [(each.exchange, each.key) for each in bus.published] == [("receipts", "mail.ann")]
    with pytest.raises(UsageError, match="no exchange named 'reciepts'"):
        bus.publish("reciepts", order(), key="mail.ann")
    with pytest.raises(UsageError, match="cannot publish"):
        bus.publish("receipts", {"id": object()}, key="mail.ann")
    assert len(bus.published) == 1


def run_pytest(folder):
    # By its entry point, and without the plugins of others, which take seconds to import.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "feedbus"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


def test_pytest_ini_names_a_topology_in_another_folder(tmp_path):
    files = {block.file: block.text for block in blocks(PAGE)}
    (tmp_path / "pytest.ini").write_text(files["pytest.ini"])
    (tmp_path / "shop.py").write_text(files["shop.py"])
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "topology.toml").write_text(files["topology.toml"])
    test = "def test_none(feedbus_system):\n    assert feedbus_system.run() == 0\n"
    (tmp_path / "test_shop.py").write_text(test)
    assert "1 passed" in run_pytest(tmp_path)
