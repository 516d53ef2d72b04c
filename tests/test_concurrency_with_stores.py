"""Handlers in several threads; each call has its own transaction of one store."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.orm import Session

from feedbus import Bus, broker
from feedbus.broker_names import Names
from feedbus.metrics import Metrics
from feedbus.store import Store
from feedbus.store.peewee import close_bound
from feedbus.store.sqlalchemy import SqlAlchemyStore
from servers.postgres import chosen
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.systems import System

THREADS = 6
NEXT = queue("next", exchange="other", routing_keys=("n",))


def write_with_peewee(session: peewee.Database, number: int) -> None:
    session.execute_sql(f"INSERT INTO effects VALUES ({number})")


def write_with_sqlalchemy(session: Session, number: int) -> None:
    session.execute(text(f"INSERT INTO effects VALUES ({number})"))


class Made:
    """A system of a queue that says once, and how its handlers write."""

    def __init__(self, folder: Path, library: str, url: str) -> None:
        work = queue(once=True, concurrency=THREADS, prefetch=30)
        self.system = System.at(folder, work, NEXT, store_url=url)
        self.session_type: Any = peewee.Database
        self.write: Callable[[Any, int], None] = write_with_peewee
        if library == "sqlalchemy":
            close_bound()
            engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"))
            store: Store = SqlAlchemyStore(engine, "")
            self.system = System(self.system.topology, store=store)
            self.session_type, self.write = Session, write_with_sqlalchemy
            store.set_up()
        self.store = self.system.store
        with self.store.transaction() as session:
            self.sql(session, "CREATE TABLE effects (n integer PRIMARY KEY)")

    @staticmethod
    def sql(session: Any, statement: str) -> Any:
        if isinstance(session, Session):
            return session.execute(text(statement))
        return session.execute_sql(statement)

    def effects(self) -> list[int]:
        with self.store.transaction() as session:
            found = self.sql(session, "SELECT n FROM effects ORDER BY n")
            return [row[0] for row in found.fetchall()]

    def children(self) -> list[tuple[str, int]]:
        """Take the messages that the handlers have published, with their ids."""
        topology, found = self.system.topology, []
        with broker.connect(topology) as connection:
            channel = connection.default_channel
            name = Names(topology).queue(topology.consumer("next"))
            while (message := channel.basic_get(name, no_ack=True)) is not None:
                body = message.body.decode() if isinstance(message.body, bytes) else message.body
                found.append((message.properties["message_id"], json.loads(body)["n"]))
        return found


@pytest.fixture(
    params=[
        *("peewee sqlite", "sqlalchemy sqlite"),
        *(f"{library} {chosen()[0]}" for library in ("peewee", "sqlalchemy")),
    ]
)
def made(request, tmp_path) -> Iterator[Made]:
    library, place = request.param.split()
    server = None
    url = f"sqlite:///{tmp_path}/store.db"
    if place != "sqlite":
        server = request.getfixturevalue("postgres")
        url = server.new_database()
    found = Made(tmp_path, library, url)
    yield found
    found.store.close()
    if server is not None:
        server.drop_database(url)


def test_effects_and_what_is_published_are_there_once_whatever_comes_twice_or_fails(made):
    at_once: list[int] = []
    running, failed, lock = 0, set(), threading.Lock()

    def effect(message: dict[str, int], session: made.session_type, bus: Bus) -> None:
        nonlocal running
        n = message["n"]
        with lock:
            running += 1
            at_once.append(running)
            fails = n % 10 == 3 and n not in failed
            failed.add(n)
        try:
            time.sleep(0.003)
            made.write(session, n)
            bus.publish("other", {"n": n}, "n")
            if fails:
                raise ValueError(n)
        finally:
            with lock:
                running -= 1

    effect.__annotations__["session"] = made.session_type
    with made.system.bus() as bus:
        for n in (*range(30), *range(0, 30, 4)):
            bus.publish("work", {"n": n}, message_id=f"m{n}")
    made.system.run(effect, idle_seconds=1.0)
    assert made.effects() == list(range(30))
    children = made.children()
    assert sorted(set(children)) == sorted(children)
    assert sorted(n for _, n in children) == list(range(30))
    assert (made.store.outbox.pending(), made.system.dead()) == ([], [])
    on_sqlite = made.store.dialect == "sqlite"  # where one transaction at a time writes
    assert (max(at_once) > 1) is not on_sqlite


def test_equal_messages_without_ids_that_run_at_once_are_each_handled(made):
    counted: Counter[int] = Counter()
    lock = threading.Lock()

    def effect(message: dict[str, int], bus: Bus) -> None:
        time.sleep(0.02)
        with lock:
            counted[message["n"]] += 1
        bus.publish("other", message, "n")

    topology = made.system.topology
    with broker.connect(topology) as connection:
        channel = connection.default_channel
        for n in (1, 1, 1, 2, 2, 1):
            body = channel.prepare_message(json.dumps({"n": n}).encode())
            channel.basic_publish(body, Names(topology).exchange("work"), "")
    made.system.run(effect, idle_seconds=1.0)
    assert counted == {1: 4, 2: 2}
    assert len({name for name, _ in made.children()}) == 6


@pytest.mark.integration
def test_a_store_that_is_restarted_while_several_run_loses_no_row_and_counts_no_attempt(
    postgres, tmp_path
):
    url = postgres.new_database()
    made = Made(tmp_path, "peewee", url)
    metrics = Metrics.none()

    def effect(message: dict[str, int], session: peewee.Database, bus: Bus) -> None:
        made.write(session, message["n"])
        bus.publish("other", message, "n")

    effect.__annotations__.update(session=peewee.Database, bus=Bus)
    made.system.publish(range(300))
    with made.system.running(effect, metrics=metrics):
        wait_until(lambda: metrics.value("feedbus_records_total", "work", "ack") > 30)
        postgres.kill()
        wait_until(lambda: metrics.value("feedbus_held_seconds_total", "work", "store"))
        postgres.start()
        wait_until(lambda: metrics.value("feedbus_records_total", "work", "ack") >= 300)
    assert made.effects() == list(range(300))
    assert metrics.value("feedbus_records_total", "work", "retry") == 0
    assert made.system.dead() == []
    ids = {name for name, _ in made.children()}
    assert len(ids) + len(made.store.outbox.pending(1000)) >= 300
    made.store.close()
    postgres.drop_database(url)
