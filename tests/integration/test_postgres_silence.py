"""If PostgreSQL does not answer, its connection is closed, and another connection is opened."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from feedbus.errors import StoreOutage
from feedbus.metrics import Metrics
from feedbus.store.peewee import (
    PeeweeStore,
    bind,
    bound,
    close_bound,
    database,
    deadlines,
    transaction,
)
from feedbus.store.stale_server_sessions import ServerSession, StaleServerSessions
from servers.proxy import SilentProxy
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.stores import MAKERS
from tests.systems import System

pytestmark = pytest.mark.integration
SHORT = "?options=-c%20statement_timeout%3D1s"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deadlines, "MARGIN_SECONDS", 0.5)
    monkeypatch.setattr(deadlines, "CHECK_SECONDS", 0.1)
    yield
    close_bound()


@pytest.fixture
def proxied(postgres):
    """A database behind a proxy, and its URL through that."""
    url = postgres.new_database()
    with SilentProxy(postgres.port) as proxy:
        yield proxy, url.replace(f":{postgres.port}/", f":{proxy.port}/")
        close_bound()
    postgres.drop_database(url)


def test_a_read_is_asked_again_on_another_connection(proxied):
    proxy, url = proxied
    bind(PeeweeStore(url + SHORT))
    assert database.execute_sql("SELECT 1").fetchone() == (1,)
    proxy.swallow()
    started = time.monotonic()
    assert database.execute_sql("SELECT 2").fetchone() == (2,)
    assert time.monotonic() - started < 20
    assert proxy.accepted == 2


def note() -> None:
    bound().inbox.add_new("work", ["one"])


def copy() -> None:
    with database.connection().cursor() as cursor:
        cursor.copy_expert("COPY feedbus_inbox FROM STDIN", BytesIO())


@pytest.mark.parametrize("statement", [note, copy])
def test_a_transaction_is_an_outage(proxied, statement: Callable[[], None]):
    proxy, url = proxied
    bind(PeeweeStore(url + SHORT))
    bound().set_up()

    def silenced() -> None:
        with transaction():
            bound().outbox.pending(1)
            proxy.swallow()
            statement()

    with pytest.raises(StoreOutage, match="no answer within"):
        silenced()
    assert bound().inbox.add_new("work", ["one"]) == ["one"]


def test_a_connection_that_was_idle_is_probed_with_a_shorter_deadline(
    proxied, monkeypatch: pytest.MonkeyPatch
):
    proxy, url = proxied
    bind(PeeweeStore(f"{url}?options=-c%20statement_timeout%3D10min"))
    database.execute_sql("SELECT 1")
    monkeypatch.setattr(deadlines, "PROBE_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(deadlines, "PROBE_SECONDS", 0.3)
    proxy.swallow()
    assert database.execute_sql("SELECT 2").fetchone() == (2,)


def test_a_statement_may_take_as_long_as_the_server_lets_it(proxied):
    _, url = proxied
    bind(PeeweeStore(url + SHORT))
    database.execute_sql("SET statement_timeout = '1min'")
    assert database.execute_sql("SELECT pg_sleep(2.5), 1").fetchone()[1] == 1


def test_consumers_go_on_after_a_store_that_fell_silent(proxied, tmp_path: Path):
    proxy, url = proxied
    system = System.at(tmp_path, queue(), store_url=url + SHORT)
    database.execute_sql("CREATE TABLE effects (n integer)")
    metrics = Metrics.none()

    def write(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] == 2:
            database.execute_sql("SELECT 1")
            proxy.swallow() if not system.seen[1:] else None
        system.note(message)
        database.execute_sql("INSERT INTO effects VALUES (%s)", (message["n"],))

    with system.running(write, metrics=metrics):
        system.publish([1, 2, 3])
        wait_until(lambda: metrics.value("feedbus_records_total", "work", "ack") == 3)
    found = database.execute_sql("SELECT n FROM effects ORDER BY n").fetchall()
    assert found == [(1,), (2,), (3,)]
    assert metrics.value("feedbus_records_total", "work", "retry") == 0
    assert metrics.value("feedbus_outages_total", "work", "store") == 1


def open_transactions(url: str) -> int:
    """Return how many sessions keep a transaction open, as another client sees them."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database() AND xact_start IS NOT NULL"
                " AND backend_type = 'client backend'"
            )
            return cursor.fetchone()[0]
    finally:
        connection.close()


def shut_down(session: Any) -> None:
    """Shut down the socket of a connection, as the kernel does after tcp_user_timeout."""
    raw = getattr(session.connection(), "connection", session.connection())
    with socket.socket(fileno=os.dup(raw.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy"])
def test_the_locks_of_a_connection_that_was_given_up_end_with_the_next_connection(
    proxied, kind: str
):
    proxy, url = proxied
    store = MAKERS[kind][0](f"{url}?options=-c%20statement_timeout%3D30s", "shop")
    store.set_up()
    row = store.outbox.put("orders", {"n": 1}).id

    def silenced() -> None:
        with store.transaction() as session:
            store.inbox.add_new("work", ["one"])
            store.outbox.remove([row])
            proxy.swallow()
            shut_down(session)
            store.outbox.pending(1)

    with pytest.raises(StoreOutage):
        silenced()
    assert open_transactions(url) == 1
    with store.transaction():
        assert store.inbox.add_new("work", ["one"]) == ["one"]
        assert store.outbox.remove([row]) == 1
    wait_until(lambda: open_transactions(url) == 0)
    store.close()


def test_a_session_that_was_opened_by_another_process_is_not_ended():
    closed = StaleServerSessions()
    closed.add(ServerSession(7, 1, os.getpid() + 1))
    closed.end(pytest.fail)


def test_a_session_with_the_number_of_one_that_was_given_up_is_not_ended(postgres):
    first, second = (PeeweeStore(postgres.url(), "shop") for _ in range(2))
    first.ready()
    second.ready()
    kept = second.database.connection().server_session
    first.database.connection().server_session = replace(kept, started_at=kept.started_at - 1)
    first.database.discard()
    first.ready()
    assert second.execute("SELECT 1", {}).fetchall() == [(1,)]
    assert second.database.connection().server_session == kept
    first.close()
    second.close()


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
def test_a_wait_for_a_lock_of_feedbuss_own_tables_is_an_outage(postgres, kind: str, setting: str):
    url = postgres.new_database()
    store = MAKERS[kind][0](f"{url}?options=-c%20{setting}%3D200", "shop")
    other = PeeweeStore(url, "shop")
    store.set_up()
    row = store.outbox.put("orders", {"n": 1}).id
    with other.transaction():
        other.inbox.add_new("work", ["one"])
        other.outbox.remove([row])
        with pytest.raises(StoreOutage, match="feedbus's own tables; if this continues"):
            store.inbox.add_new("work", ["one"])
        with pytest.raises(StoreOutage), store.transaction():
            store.outbox.remove([row])
    assert store.inbox.add_new("work", ["one"]) == []
    store.close()
    other.close()
    postgres.drop_database(url)


def test_a_record_whose_inbox_row_is_locked_waits_and_uses_up_no_attempt(postgres, tmp_path: Path):
    url = postgres.new_database()
    limited = f"{url}?options=-c%20statement_timeout%3D200"
    system = System.at(tmp_path, queue(once=True), store_url=limited)
    other, metrics = PeeweeStore(url), Metrics.none()
    with system.bus() as bus:
        bus.publish("work", {"n": 1}, message_id="one")

    def held() -> bool:
        return metrics.value("feedbus_outages_total", "work", "store") >= 1

    def rolled_back(running: ExitStack) -> None:
        with other.transaction():
            assert other.inbox.add_new("work", ["one"]) == ["one"]
            running.enter_context(system.running(system.note, metrics=metrics))
            wait_until(held)
            raise ZeroDivisionError

    with ExitStack() as running:
        with pytest.raises(ZeroDivisionError):
            rolled_back(running)
        wait_until(lambda: system.seen == [1])
    assert metrics.value("feedbus_records_total", "work", "retry") == 0
    other.close()
    close_bound()
    postgres.drop_database(url)
