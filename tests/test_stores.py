"""What every store promises, whatever library it is made of."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from feedbus.errors import Outage, StoreOutage
from feedbus.handling.handlers import Handler
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources
from feedbus.store import Store
from feedbus.store.outages import connection_lost
from feedbus.store.peewee import PeeweeStore
from feedbus.store.sqlalchemy import SqlAlchemyStore
from servers.postgres import Postgres, chosen
from tests.projects import PATIENCE_SECONDS
from tests.systems import Numbered

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from psycopg_store import PsycopgStore

ROOT = Path(__file__).parents[1]
PLAIN = {"n": 1}
ON_POSTGRES = [
    f"{kind} {version}" for kind in ("peewee", "sqlalchemy", "psycopg") for version in chosen()
]


@dataclass(frozen=True, slots=True)
class Made:
    """A store, how another process would open it, and how a handler writes with its session."""

    store: Store
    again: Callable[[str], Store]
    execute: Callable[[Any, str], Any]
    close: Callable[[Any], None]

    def effect(self, session: Any, number: int) -> None:
        self.execute(session, f"INSERT INTO effects VALUES ({number})")

    def effects(self) -> list[int]:
        with self.store.transaction() as session:
            found = self.execute(session, "SELECT n FROM effects ORDER BY n")
            return [row[0] for row in found.fetchall()]


def engine(url: str) -> sqlalchemy.Engine:
    return sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))


CLOSERS: dict[str, Callable[[Any], None]] = {
    "peewee": lambda database: database.connection().close(),
    "sqlalchemy": lambda session: session.connection().connection.dbapi_connection.close(),
    "psycopg": lambda connection: connection.close(),
}
MAKERS: dict[str, tuple[Callable[[str, str], Store], Callable[[Any, str], Any]]] = {
    "peewee": (PeeweeStore, lambda database, sql: database.execute_sql(sql)),
    "sqlalchemy": (
        lambda url, project: SqlAlchemyStore(engine(url), project),
        lambda session, sql: session.execute(text(sql)),
    ),
    "psycopg": (
        lambda url, project: PsycopgStore(url, project, "there"),
        lambda connection, sql: connection.execute(sql),
    ),
}


@pytest.fixture(params=["peewee sqlite", "sqlalchemy sqlite", *ON_POSTGRES])
def made(request, postgres_servers, tmp_path) -> Iterator[Made]:
    kind, place = request.param.split()
    server = None if place == "sqlite" else postgres_servers(int(place))
    url = f"sqlite:///{tmp_path}/shop.db" if server is None else server.new_database()
    make, execute = MAKERS[kind]
    opened: list[Store] = []

    def again(project: str) -> Store:
        opened.append(make(url, project))
        return opened[-1]

    store = again("shop")
    store.set_up()
    with store.transaction() as session:
        execute(session, "CREATE TABLE effects (n integer PRIMARY KEY)")
    yield Made(store, again, execute, CLOSERS[kind])
    for each in opened:
        each.close()
    if server is not None:
        server.drop_database(url)


def test_effects_inbox_and_outbox_commit_together_or_not_at_all(made):
    store = made.store
    with contextlib.suppress(ZeroDivisionError), store.transaction() as session:
        made.effect(session, 1)
        store.inbox.unseen("work", ["a"])
        store.outbox.put("orders", PLAIN)
        store.outbox.put_many("orders", [("k", PLAIN, "m")])
        _ = 1 / 0
    assert (made.effects(), store.inbox.seen("work", ["a"]), store.outbox.pending()) == ([], [], [])
    with store.transaction() as session:
        made.effect(session, 1)
        assert store.inbox.unseen("work", ["b", "a", "b"]) == ["b", "a"]
        entry = store.outbox.put("orders", {"text": "née 🙂 : %s"}, "chair", message_id="m")
    assert made.effects() == [1]
    assert store.inbox.seen("work", ["a", "c"]) == ["a"]
    assert made.again("shop").outbox.pending() == [entry]


def test_a_row_of_the_outbox_takes_the_arguments_and_the_options_of_publish(made):
    outbox = made.store.outbox
    options = {"headers": {"source": "web"}, "priority": 5, "delay": "30s"}
    entry = outbox.put("orders", PLAIN, "chair", **options)
    plain = outbox.put("orders", PLAIN, headers=None)
    assert outbox.pending() == [entry, plain]
    assert json.loads(entry.options) == {**options, "delay": 30.0}
    assert (plain.options, plain.key) == (None, "")
    for arguments, error in (
        ({"priority": 300}, "priority: expected 0 to 255, got 300"),
        (
            {"delays": 1},
            "publish() has no argument 'delays'; its options are message_id, headers, prio",
        ),
        ({"key": 7}, "key: expected str, got 7 of type int"),
        ({"payload": "text"}, "payload: expected a mapping"),
        ({"delay": 5, "expires": 5}, "expires: cannot be combined with delay"),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(error)):
            outbox.put(**{"exchange": "orders", "payload": PLAIN, **arguments})
    assert len(outbox.pending()) == 2


def test_a_message_is_new_to_one_transaction_only(made):
    with made.store.transaction():
        assert made.store.inbox.unseen("work", ["a"]) == ["a"]
    with made.store.transaction():
        assert made.store.inbox.unseen("work", ["a", "b"]) == ["b"]
        assert made.store.inbox.unseen("other", ["a"]) == ["a"]
        assert made.store.inbox.unseen("work", []) == []


def test_a_message_whose_record_was_taken_back_is_new_again(made):
    with made.store.transaction():
        made.store.inbox.unseen("work", ["a", "b"])
        made.store.inbox.release("work", ["a", "c"])
        made.store.inbox.release("other", ["b"])
        made.store.inbox.release("work", [])
    with made.store.transaction():
        assert made.store.inbox.unseen("work", ["a", "b"]) == ["a"]


def test_many_outbox_rows_keep_their_order_and_are_removed_by_their_ids(made):
    rows = [(f"key {n}", {"n": n}, f"id-{n}") for n in range(2_100)]
    with made.store.transaction():
        ids = made.store.outbox.put_many("orders", iter(rows))
    assert [each.message_id for each in made.store.outbox.pending(9_999)] == [
        row[2] for row in rows
    ]
    assert ids == [each.id for each in made.store.outbox.pending(9_999)]
    assert made.store.outbox.remove(ids[:2_099]) == 2_099
    (left,) = made.store.outbox.pending()
    assert (left.exchange, left.key, left.payload) == ("orders", "key 2099", '{"n":2099}')
    assert made.store.outbox.pending(after=left.id) == []
    assert made.store.outbox.pending(older_than_seconds=60) == []
    assert made.store.outbox.remove([]) == 0


def test_the_rows_of_some_keys_are_found_up_to_one_of_them(made):
    rows = [(key, {}, f"{key}-{n}") for n in (1, 2, 3) for key in ("a", 'b"', "c")]
    with made.store.transaction():
        ids = made.store.outbox.put_many("orders", rows)
        made.store.outbox.put("others", {}, "a")
    keys = {("orders", "a"), ("orders", 'b"'), ("others", "c")}
    found = made.store.outbox.pending(up_to=ids[5], keys=keys)
    assert [each.message_id for each in found] == ["a-1", 'b"-1', "a-2", 'b"-2']
    assert made.store.outbox.pending(keys=set()) == []


def test_a_transaction_whose_connection_was_closed_is_lost_and_the_next_one_works(made):
    store = made.store

    def work() -> None:
        with store.transaction() as session:
            made.effect(session, 1)
            made.close(session)
            store.inbox.unseen("work", ["a"])

    with pytest.raises(Exception, match="clos") as raised:
        work()
    assert connection_lost(raised.value)
    with store.transaction() as session:
        made.effect(session, 2)
        store.inbox.unseen("work", ["b"])
    assert (made.effects(), store.inbox.seen("work", ["a", "b"])) == ([2], ["b"])


def test_a_transaction_within_another_joins_it(made):
    with contextlib.suppress(ZeroDivisionError), made.store.transaction() as session:
        with made.store.transaction() as inner:
            assert inner is session
            made.effect(inner, 1)
        _ = 1 / 0
    assert made.effects() == []


def test_each_thread_has_a_transaction_of_its_own(made):
    seen = []
    with made.store.transaction() as session:
        if made.store.dialect == "postgresql":  # SQLite lets nobody else begin meanwhile
            made.effect(session, 1)
        thread = threading.Thread(target=lambda: seen.append(made.effects()))
        thread.start()
        thread.join(PATIENCE_SECONDS)
    assert seen == [[]]


def test_a_transaction_of_which_nothing_is_executed_locks_nothing(made):
    other = made.again("shop")
    with made.store.transaction(), other.transaction() as session:
        made.effect(session, 1)
    assert made.effects() == [1]


def test_what_a_message_does_wrong_is_no_outage(made):
    for wrong in ("INSERT INTO effects VALUES (1), (1)", "SELECT nothing FROM effects", "no SQL"):
        with pytest.raises(Exception, match=r".") as raised, made.store.transaction() as session:
            made.execute(session, wrong)
        assert not isinstance(raised.value, Outage), wrong
        assert not made.store.is_outage(raised.value), wrong
    assert made.store.is_outage(Outage("raised by a handler"))
    assert not made.store.is_outage(ValueError("raised by a handler"))
    assert made.effects() == []


def test_a_missing_table_is_an_outage_that_says_what_to_do(made):
    with pytest.raises(StoreOutage, match="tables are missing"):  # noqa: SIM117 -- one is expected
        with made.store.transaction() as session:
            made.execute(session, "SELECT n FROM not_migrated_yet")


def test_a_role_without_a_privilege_is_an_outage_and_a_row_that_a_policy_refuses_is_none(made):
    if made.store.dialect == "sqlite":
        return  # has no roles

    def write_as_clerk(*before: str) -> None:
        with made.store.transaction() as session:
            made.execute(session, "CREATE ROLE clerk")
            for each in before:
                made.execute(session, each)
            made.execute(session, "SET LOCAL ROLE clerk")
            made.execute(session, "INSERT INTO effects VALUES (1)")

    with pytest.raises(StoreOutage, match="denied for table effects; grant it to the role"):
        write_as_clerk()
    policy = "CREATE POLICY large ON effects FOR INSERT WITH CHECK (n > 1)"
    granted = "GRANT INSERT ON effects TO clerk"
    with pytest.raises(Exception, match="row-level security") as raised:
        write_as_clerk(granted, "ALTER TABLE effects ENABLE ROW LEVEL SECURITY", policy)
    assert not made.store.is_outage(raised.value)


@pytest.mark.parametrize("name", ["commit", "rollback", "close"])
def test_nothing_but_the_store_ends_its_transaction(name, made):
    def end_the_transaction() -> None:
        with made.store.transaction() as session:
            made.store.inbox.unseen("work", ["a"])
            getattr(session, name)()

    refused = "transaction of the store|within a Transaction|transaction is open|is closed"
    with pytest.raises(Exception, match=refused):
        end_the_transaction()
    with made.store.transaction():
        assert made.store.inbox.unseen("work", ["a"]) == ["a"]
    assert made.store.inbox.seen("work", ["a"]) == ["a"]


def test_one_process_at_a_time_holds_a_lock_and_its_end_frees_it(made):
    other = made.again("shop")
    third = made.again("shop")
    with (
        made.store.exclusive("relay") as held,
        other.exclusive("relay") as also,
        third.exclusive("something else") as another,
    ):
        assert (held, also, another) == (True, False, True)
    with other.exclusive("relay") as held:
        assert held


def test_projects_in_one_store_are_kept_apart_and_old_rows_pruned_in_steps(made):
    other = made.again("other")
    other.set_up()
    for name in "abc":
        made.store.inbox.unseen("work", [name])
    assert other.inbox.unseen("work", ["a"]) == ["a"]
    made.store.outbox.put("orders", PLAIN)
    assert other.outbox.pending() == []
    assert made.store.inbox.forget(3600) == 0
    assert made.store.inbox.forget(-1, limit=2) == 2
    assert made.store.inbox.seen("work", ["a", "b", "c"]) == ["c"]
    assert other.inbox.seen("work", ["a"]) == ["a"]


def test_it_answers_and_goes_on_after_it_was_closed(made):
    made.store.ready()
    made.store.close()
    made.store.ready()
    assert made.effects() == []


def test_a_handler_is_given_the_session_by_its_annotation(made):
    written = []

    def handle(message: dict[str, int], session: made.store.session_type, bus: Any = None) -> None:
        made.effect(session, message["n"])
        written.append(bus)

    handle.__annotations__["session"] = made.store.session_type
    call = Handler(handle, Numbered, batch=False).caller(made.store.session_type, Resources(None))
    with made.store.transaction() as session:
        call({"n": 7}, Given("the bus", session, None))
    assert (made.effects(), written) == ([7], [None])


@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy"])
def test_sqlite_waits_for_its_turn_with_the_first_statement_and_outside_the_clock(kind, tmp_path):
    path, waits = tmp_path / "shop.db", []

    @contextlib.contextmanager
    def waiting():
        other.execute("ROLLBACK")  # else the wait would be in vain
        waits.append("waited")
        yield

    url = f"sqlite:///{path}"
    store: Store = (
        PeeweeStore(url, waiting=waiting)
        if kind == "peewee"
        else SqlAlchemyStore(engine(url), "shop", waiting=waiting)
    )
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE effects (n)")
    other.execute("BEGIN IMMEDIATE")
    execute = MAKERS[kind][1]
    with store.transaction():
        assert waits == []
    with store.transaction() as session:
        assert execute(session, "SELECT count(*) FROM effects").fetchall() == [(0,)]
        assert waits == ["waited"]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(path, timeout=0).execute("BEGIN IMMEDIATE")
        execute(session, "INSERT INTO effects VALUES (1)")
    assert other.execute("SELECT n FROM effects").fetchall() == [(1,)]
    other.close()
    store.close()


def test_an_sqlalchemy_store_writes_again_when_its_file_is_no_longer_read_only(tmp_path):
    path, modes = tmp_path / "shop.db", ["rw", "ro"]
    own = engine(f"sqlite:///{path}")

    @sqlalchemy.event.listens_for(own, "do_connect")
    def connect(*_: object) -> sqlite3.Connection:
        mode = modes.pop() if modes else "rw"
        return sqlite3.connect(f"file:{path}?mode={mode}", uri=True, check_same_thread=False)

    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE effects (n)")
    store = SqlAlchemyStore(own, "shop")
    for number, reason in enumerate(["it cannot be written", None]):
        expected = pytest.raises(StoreOutage, match=reason) if reason else contextlib.nullcontext()
        with expected, store.transaction() as session:
            session.execute(text(f"INSERT INTO effects VALUES ({number})"))
    with store.transaction() as session:
        assert session.execute(text("SELECT n FROM effects")).fetchall() == [(1,)]
    store.close()


def end_sessions(postgres: Postgres) -> None:
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    postgres.sql(f"{ended} WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["peewee", "sqlalchemy", "psycopg"])
def test_a_server_that_goes_away_is_an_outage_and_comes_back(kind, postgres):
    url = postgres.new_database()
    store = MAKERS[kind][0](url, "shop")
    store.set_up()
    end_sessions(postgres)
    with contextlib.suppress(
        StoreOutage
    ):  # the first to see it, unless it connects again by itself
        store.ready()
    store.ready()

    def lose_the_connection() -> None:
        with store.transaction() as session:
            MAKERS[kind][1](session, "SELECT 1")
            end_sessions(postgres)
            store.outbox.put("orders", PLAIN)

    with pytest.raises(StoreOutage):
        lose_the_connection()
    assert store.outbox.pending() == []
    store.close()
    postgres.drop_database(url)


def test_the_example_of_a_store_of_ones_own_is_short_and_shown_whole():
    text = Path(sys.modules[PsycopgStore.__module__].__file__).read_text()
    assert len(text.splitlines()) <= 60
    assert f"```python\n{text}```" in (ROOT / "docs/how-to/database.md").read_text()
