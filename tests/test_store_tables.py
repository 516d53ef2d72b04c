"""feedbus's own tables: created, upgraded and pruned; projects are separate; the relay."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.clock import SYSTEM
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.store.migrations import (
    INBOX,
    INBOX_AGE,
    OPTIONS,
    VERSION,
    VERSION_TABLE,
    read_version,
)
from feedbus.store.outbox_publishing import options_of, publish_and_remove
from feedbus.store.peewee import PeeweeStore
from feedbus.store.relay import Relay
from feedbus.topology import StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url
from servers.postgres import chosen
from tests.projects import PATIENCE_SECONDS, Project, wait_until

ROOT = Path(__file__).parents[1]

# The tables as peewee created them for feedbus 0.1.
OF_0_1 = (
    """
    CREATE TABLE "feedbus_outbox" ("id" {serial} NOT NULL PRIMARY KEY, "exchange" TEXT NOT NULL,
    "routing_key" TEXT NOT NULL, "payload" TEXT NOT NULL, "message_id" TEXT NOT NULL,
    "created_at" {integer} NOT NULL)
    """,
    """
    CREATE TABLE "feedbus_inbox" ("queue" TEXT NOT NULL, "message_id" TEXT NOT NULL,
    "created_at" {integer} NOT NULL, PRIMARY KEY ("queue", "message_id"))
    """,
    'CREATE INDEX "inbox_created_at" ON "feedbus_inbox" ("created_at")',
)
TYPES = {
    "sqlite": {"serial": "INTEGER", "integer": "INTEGER"},
    "postgresql": {"serial": "BIGSERIAL", "integer": "BIGINT"},
}


@pytest.fixture
def store(empty_store_url):
    opened = PeeweeStore(empty_store_url, "shop")
    yield opened
    opened.close()


def add_as_0_1(store: PeeweeStore, number: int) -> None:
    """Add a row to each table as a host of 0.1 does."""
    now = time.time_ns() // 1_000
    store.execute(
        "INSERT INTO feedbus_outbox (exchange, routing_key, payload, message_id, created_at)"
        f" VALUES ('orders', 'chair', '{{}}', 'out-{number}', {now})",
        {},
    )
    store.execute(
        "INSERT INTO feedbus_inbox (queue, message_id, created_at)"
        f" SELECT 'work', 'in-{number}', {now} WHERE true ON CONFLICT DO NOTHING",
        {},
    )


def check_ids_are_given_once(store: PeeweeStore) -> None:
    """Check that the id of the last row is not used again after the row was removed."""
    given = [each.id for each in store.outbox.pending()]
    store.outbox.remove(given)
    assert store.outbox.put("orders", {"n": 1}).id > max(given)


def test_tables_of_0_1_are_taken_over_and_a_host_of_0_1_can_go_on(store):
    for statement in OF_0_1:
        store.execute(statement.format(**TYPES[store.dialect]), {})
    add_as_0_1(store, 1)
    assert read_version(store) == 1
    store.set_up()
    assert read_version(store) == VERSION
    add_as_0_1(store, 2)
    store.outbox.put("orders", {"n": 3}, message_id="out-3")
    assert [each.message_id for each in store.outbox.pending()] == ["out-1", "out-2", "out-3"]
    with store.transaction():
        assert store.inbox.add_new("work", ["in-1", "in-2", "in-3"]) == ["in-3"]
    store.set_up()
    assert len(store.outbox.pending()) == 3
    check_ids_are_given_once(store)


@pytest.mark.parametrize("empty_store_url", chosen(), indirect=True)
def test_an_upgrade_waits_for_a_transaction_of_a_host_of_0_1(store, empty_store_url):
    for statement in OF_0_1:
        store.execute(statement.format(**TYPES[store.dialect]), {})
    with psycopg.connect(empty_store_url) as host:
        host.execute("INSERT INTO feedbus_inbox VALUES ('work', 'in-1', 1)")
        upgrading = ThreadPoolExecutor(1).submit(store.set_up)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        wait_until(lambda: store.execute(waiting, {}).fetchone() == (1,))
        host.execute(
            "INSERT INTO feedbus_outbox (exchange, routing_key, payload, message_id, created_at)"
            " VALUES ('orders', 'chair', '{}', 'out-1', 1)"
        )
    upgrading.result()
    assert read_version(store) == VERSION
    assert store.inbox.add_new("work", ["in-1", "in-2"]) == ["in-2"]
    assert [row.message_id for row in store.outbox.pending()] == ["out-1"]


def test_tables_of_version_2_get_the_column_of_options_and_keep_their_rows(store):
    store.set_up()
    store.execute("ALTER TABLE feedbus_outbox DROP COLUMN options", {})
    store.execute("UPDATE feedbus_version SET version = 2", {})
    add = (
        "INSERT INTO feedbus_outbox"
        " (project, exchange, routing_key, payload, message_id, created_at)"
        " VALUES ('shop', 'orders', 'chair', '{}', 'out-1', 1)"
    )
    store.execute(add, {})
    store.set_up()
    assert read_version(store) == VERSION
    store.outbox.put_many("orders", [("chair", {}, "out-2")], {"priority": 5})
    kept = [(each.message_id, each.options) for each in store.outbox.pending()]
    assert kept == [("out-1", None), ("out-2", '{"priority": 5}')]


def test_tables_of_version_3_keep_their_rows_and_a_host_of_0_1_can_go_on(store):
    for statement in (
        OF_0_1[0].format(**TYPES[store.dialect]),
        "ALTER TABLE feedbus_outbox ADD COLUMN project text NOT NULL DEFAULT 'shop'",
        OPTIONS,
        INBOX.format(default=" DEFAULT 'shop'"),
        INBOX_AGE,
        VERSION_TABLE,
        "INSERT INTO feedbus_version VALUES (3)",
    ):
        store.execute(statement, {})
    add_as_0_1(store, 1)
    store.outbox.put_many("orders", [("chair", {}, "out-2")], {"priority": 5})
    before = store.outbox.pending()
    store.set_up()
    assert read_version(store) == VERSION
    assert store.outbox.pending() == before
    add_as_0_1(store, 3)
    assert [each.message_id for each in store.outbox.pending()] == ["out-1", "out-2", "out-3"]
    check_ids_are_given_once(store)


def test_a_relay_publishes_with_the_options_of_a_row_less_the_time_that_it_has_waited(store):
    store.set_up()
    options = {"headers": {"source": "web"}, "priority": 5, "expires": 600.0}
    store.outbox.put_many("orders", [("chair", {"n": 1}, "a"), ("chair", {"n": 2}, "b")], options)
    store.execute(
        "UPDATE feedbus_outbox SET created_at = created_at - 60000000 WHERE message_id = 'b'", {}
    )
    bus = Broker()
    publish_and_remove(store, bus, store.outbox.pending())
    young, old = bus.options
    assert young | {"expires": 600.0} == old | {"expires": 600.0} == options
    assert 540 >= old["expires"] >= young["expires"] - 60.1
    assert store.outbox.pending() == []


def test_a_delay_that_is_over_before_the_relay_comes_is_none(store):
    store.set_up()
    store.outbox.put_many("orders", [("chair", {}, "a")], {"delay": 600.0})
    store.outbox.put_many("orders", [("chair", {}, "b")], {"delay": 10.0})
    store.execute("UPDATE feedbus_outbox SET created_at = created_at - 60000000", {})
    bus = Broker()
    publish_and_remove(store, bus, store.outbox.pending())
    first, second = bus.options
    assert 530 < first["delay"] <= 540
    assert second == {"delay": None}


def test_processes_that_start_at_once_create_the_tables_once(store, empty_store_url):
    program = (
        "import sys; from feedbus.store.peewee import PeeweeStore\n"
        "PeeweeStore(sys.argv[1], 'shop').set_up()"
    )
    words = [sys.executable, "-c", program, empty_store_url]
    running = [subprocess.Popen(words, cwd=ROOT) for _ in range(4)]
    assert [each.wait(PATIENCE_SECONDS) for each in running] == [0] * 4
    assert store.execute("SELECT version FROM feedbus_version", {}).fetchall() == [(VERSION,)]


def test_tables_of_a_newer_feedbus_are_refused_and_left_alone(store):
    store.set_up()
    store.execute("UPDATE feedbus_version SET version = 99", {})
    with pytest.raises(UsageError, match=r"have version 99, this feedbus knows .*: upgrade"):
        store.set_up()
    assert read_version(store) == 99
    assert "have version 99" in store.refusal()


def test_status_reports_the_tables_of_a_newer_feedbus_and_check_is_its_exit_code(tmp_path):
    project = Project.at(tmp_path, "pass")
    config.load(project.topology).var.mkdir(mode=0o700)
    words = ["--topology", str(project.topology), "status", "--json", "--check"]
    store = PeeweeStore(f"sqlite:///{tmp_path}/var/store.db", "small")
    store.set_up()
    store.execute("UPDATE feedbus_version SET version = 99", {})
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 1
    state = json.loads(found.stdout)["store"]
    assert (state["reachable"], state["error"]) == (True, store.refusal())
    assert "its tables have version 99" in state["error"]
    store.execute("DELETE FROM feedbus_version", {})
    store.execute("INSERT INTO feedbus_version VALUES (:known)", {"known": VERSION})
    store.close()
    assert CliRunner().invoke(main, words).exit_code == 0


def test_rows_of_two_projects_in_one_store_are_kept_apart(store, empty_store_url):
    store.set_up()
    other = PeeweeStore(empty_store_url, "other")
    other.set_up()
    with store.transaction():
        store.outbox.put("orders", {"n": 1})
        assert store.inbox.add_new("work", ["a"]) == ["a"]
    with other.transaction():
        assert other.inbox.add_new("work", ["a"]) == ["a"]
    assert other.outbox.pending() == []
    assert other.inbox.seen("work", ["a", "b"]) == ["a"]
    with other.transaction():
        assert other.inbox.forget(-1) == 1
    assert store.inbox.seen("work", ["a"]) == ["a"]
    other.close()


def test_the_oldest_inbox_rows_are_forgotten_first_and_few_at_a_time(store):
    store.set_up()
    for name in "abc":
        store.inbox.add_new("work", [name])
    assert store.inbox.forget(3600) == 0
    assert store.inbox.forget(-1, limit=2) == 2
    assert store.inbox.seen("work", ["a", "b", "c"]) == ["c"]


class Broker:
    """A bus whose broker can be unavailable, or refuse messages."""

    def __init__(self) -> None:
        self.published, self.options, self.error, self.closed = [], [], None, 0

    def selects_shards(self, exchange):
        return exchange == "orders"

    def publish_rows(self, rows):
        if self.error is None:
            self.options += [options_of(row, SYSTEM) for row in rows]
            self.published += [
                (row.exchange, json.loads(row.payload), row.key, row.message_id) for row in rows
            ]
        return [self.error] * len(rows)

    def close(self):
        self.closed += 1


def topology(folder: Path, url: str, **options: float) -> Topology:
    broker = parse_broker_url(f"sqlite:///{folder}/broker.db")
    store = StoreOptions(url=parse_store_url(url), **options)
    return Topology("shop", folder / "topology.toml", broker, {}, {}, store=store)


def test_a_relay_creates_the_tables_publishes_what_was_left_and_prunes(
    store, empty_store_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("feedbus.store.relay.IN_FLIGHT_SECONDS", 0.0)
    monkeypatch.setattr("feedbus.store.relay.PRUNED_ROWS", 2)
    store.set_up()
    store.inbox.add_new("work", ["a", "b", "c"])
    left = store.outbox.put("orders", {"n": 1}, "chair")
    bus = Broker()
    with Relay(topology(tmp_path, empty_store_url, keep_handled_seconds=-1.0), store, bus):
        wait_until(lambda: not store.outbox.pending())
        wait_until(lambda: not store.inbox.seen("work", ["a", "b", "c"]))
    assert bus.published == [("orders", {"n": 1}, "chair", left.message_id)]


def test_what_the_broker_does_not_take_at_once_is_published_when_it_is_back(
    store, empty_store_url, tmp_path, monkeypatch
):
    monkeypatch.setattr("feedbus.store.relay.RETRY_SECONDS", 0.01)
    store.set_up()
    bus = Broker()
    with Relay(topology(tmp_path, empty_store_url), store, bus) as relay:
        bus.error = Outage("the broker is unavailable")
        first, second = (store.outbox.put("orders", {"n": n}) for n in (1, 2))
        relay.publish([first, second])
        assert (bus.closed, bus.published) == (1, [])
        bus.error = None
        wait_until(lambda: not store.outbox.pending())
        assert [payload["n"] for _, payload, _, _ in bus.published] == [1, 2]
        bus.error = PublishError([("x", "nacked")])
        refused = store.outbox.put("orders", {"n": 3})
        relay.publish([refused])  # the row stays, and no error is raised
        assert store.outbox.pending() == [refused]
