"""A PostgreSQL that answers nothing any more is given up, and asked again on another connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

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
from servers.proxy import SilentProxy
from tests.projects import wait_until
from tests.systems import System, queue

pytestmark = pytest.mark.integration
SHORT = "?options=-c%20statement_timeout%3D1s"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deadlines, "MARGIN_SECONDS", 0.5)
    monkeypatch.setattr(deadlines, "LOOK_SECONDS", 0.1)
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
    bound().inbox.unseen("work", ["one"])


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
    assert bound().inbox.unseen("work", ["one"]) == ["one"]


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
