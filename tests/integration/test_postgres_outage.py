"""A PostgreSQL that stops and starts again while consumers work costs no row and no attempt."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from feedbus.bus import Bus
from feedbus.metrics import Metrics
from feedbus.store.peewee import close_bound, database
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.systems import System

pytestmark = pytest.mark.integration
COUNT = 1_500
QUEUES = ("one", "two")


def rows() -> dict[str, int]:
    found = database.execute_sql("SELECT queue, count(DISTINCT n) FROM effects GROUP BY 1")
    return dict(found.fetchall())


@pytest.mark.parametrize(("kind", "end"), [("embedded", "kill"), ("rabbitmq", "stop")])
def test_a_store_that_is_restarted_loses_no_row_and_counts_no_attempt(
    request, postgres, tmp_path: Path, kind: str, end: str
):
    broker_url = request.getfixturevalue("rabbitmq").url if kind == "rabbitmq" else ""
    url = postgres.new_database()
    queues = [queue(name, prefetch=50) for name in QUEUES]
    system = System.at(tmp_path, *queues, broker_url=broker_url, store_url=url)
    database.execute_sql("CREATE TABLE effects (queue text, n integer)")
    metrics = Metrics.none()

    def write_for(name: str):
        def write(message: dict[str, Any], _bus: Bus) -> None:
            database.execute_sql("INSERT INTO effects VALUES (%s, %s)", (name, message["n"]))

        return write

    def acknowledged() -> float:
        return min(metrics.value("feedbus_records_total", name, "ack") for name in QUEUES)

    system.publish(range(COUNT))
    with ExitStack() as consumers:
        for name in QUEUES:
            consumers.enter_context(system.running(write_for(name), name, metrics=metrics))
        wait_until(lambda: acknowledged() > 50)
        getattr(postgres, end)()
        wait_until(
            lambda: all(metrics.value("feedbus_held_seconds_total", n, "store") for n in QUEUES)
        )
        postgres.start()
        wait_until(lambda: acknowledged() >= COUNT)
    assert rows() == dict.fromkeys(QUEUES, COUNT)
    assert {n: metrics.value("feedbus_outages_total", n, "store") for n in QUEUES} == {
        "one": 1,
        "two": 1,
    }
    for name in QUEUES:
        assert metrics.value("feedbus_records_total", name, "retry") == 0
        assert system.dead(name) == []
    close_bound()
    postgres.drop_database(url)
