"""The promises of every store, with each library."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feedbus.errors import Outage, StoreOutage, UsageError
from feedbus.handling.handlers import Handler
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources
from feedbus.store import Store
from feedbus.store.outages import is_connection_loss
from feedbus.store.sqlalchemy import SqlAlchemyStore
from tests.projects import PATIENCE_SECONDS
from tests.stores import (
    CLOSERS,
    ERRORS,
    MAKERS,
    ON_POSTGRES,
    PLAIN,
    SAVEPOINTS,
    Made,
    PsycopgStore,
)
from tests.systems import Numbered

ROOT = Path(__file__).parents[1]


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
    yield Made(store, again, execute, CLOSERS[kind], SAVEPOINTS[kind])
    for each in opened:
        each.close()
    if server is not None:
        server.drop_database(url)


def test_effects_inbox_and_outbox_commit_together_or_not_at_all(made):
    store = made.store
    with contextlib.suppress(ZeroDivisionError), store.transaction() as session:
        made.effect(session, 1)
        store.inbox.add_new("work", ["a"])
        store.outbox.put("orders", PLAIN)
        store.outbox.put_many("orders", [("k", PLAIN, "m")])
        _ = 1 / 0
    assert (made.effects(), store.inbox.seen("work", ["a"]), store.outbox.pending()) == ([], [], [])
    with store.transaction() as session:
        made.effect(session, 1)
        assert store.inbox.add_new("work", ["b", "a", "b"]) == ["b", "a"]
        entry = store.outbox.put("orders", {"text": "née 🙂 : %s"}, "chair", message_id="m")
    assert made.effects() == [1]
    assert store.inbox.seen("work", ["a", "c"]) == ["a"]
    assert made.again("shop").outbox.pending() == [entry]


def test_a_store_knows_whether_this_thread_is_in_a_transaction(made):
    seen: list[bool] = []
    with contextlib.suppress(ZeroDivisionError), made.store.transaction():
        other = threading.Thread(target=lambda: seen.append(made.store.in_transaction))
        other.start()
        other.join()
        with made.store.transaction():
            seen.append(made.store.in_transaction)
        seen.append(made.store.in_transaction)
        _ = 1 / 0
    assert [*seen, made.store.in_transaction] == [False, True, True, False]


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
        ({"delay": 5, "expires": 5}, "expires: expected more than the delay"),
    ):
        with pytest.raises((TypeError, ValueError), match=re.escape(error)):
            outbox.put(**{"exchange": "orders", "payload": PLAIN, **arguments})
    assert len(outbox.pending()) == 2


def test_a_message_is_new_to_one_transaction_only(made):
    with made.store.transaction():
        assert made.store.inbox.add_new("work", ["a"]) == ["a"]
    with made.store.transaction():
        assert made.store.inbox.add_new("work", ["a", "b"]) == ["b"]
        assert made.store.inbox.add_new("other", ["a"]) == ["a"]
        assert made.store.inbox.add_new("work", []) == []


def test_a_message_whose_record_was_taken_back_is_new_again(made):
    with made.store.transaction():
        made.store.inbox.add_new("work", ["a", "b"])
        made.store.inbox.remove("work", ["a", "c"])
        made.store.inbox.remove("other", ["b"])
        made.store.inbox.remove("work", [])
    with made.store.transaction():
        assert made.store.inbox.add_new("work", ["a", "b"]) == ["a"]


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


def test_the_id_of_a_removed_outbox_row_is_given_to_no_other(made):
    outbox, ids = made.store.outbox, []
    for count in (2, 1, 3):
        rows = outbox.put_many("orders", [("", {}, f"{len(ids)}-{each}") for each in range(count)])
        ids += rows
        outbox.remove(rows)
    assert ids == sorted(set(ids))


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
            store.inbox.add_new("work", ["a"])

    with pytest.raises(Exception, match="clos") as raised:
        work()
    assert is_connection_loss(raised.value)
    with store.transaction() as session:
        made.effect(session, 2)
        store.inbox.add_new("work", ["b"])
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
        if made.store.dialect == "postgresql":  # SQLite has one writer
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


def test_a_statement_whose_error_is_caught_loses_the_transaction_on_postgres_only_with_an_error(
    made,
):
    def insert_twice() -> None:
        with made.store.transaction() as session:
            made.store.inbox.add_new("work", ["a"])
            made.effect(session, 1)
            with contextlib.suppress(*ERRORS):
                made.effect(session, 1)

    if made.store.dialect == "sqlite":  # it rolls back only the statement
        insert_twice()
        assert made.effects() == [1]
        return
    with pytest.raises(UsageError, match="has failed, and its error was caught") as raised:
        insert_twice()
    assert not made.store.is_outage(raised.value)
    assert (made.effects(), made.store.inbox.seen("work", ["a"])) == ([], [])
    with made.store.transaction() as session:
        made.effect(session, 2)
        with contextlib.suppress(*ERRORS), made.savepoint(session):
            made.effect(session, 2)
    assert made.effects() == [2]


def test_a_transaction_that_a_statement_has_ended_on_sqlite_leaves_nothing(made):
    if made.store.dialect == "postgresql":
        return  # PostgreSQL has no such statement

    def end(*, fails: bool) -> None:
        with made.store.transaction() as session:
            made.store.inbox.add_new("work", ["a"])
            with contextlib.suppress(*ERRORS):
                made.execute(session, "INSERT OR ROLLBACK INTO effects VALUES (1), (1)")
            with contextlib.suppress(UsageError):
                made.effect(session, 2)
            if fails:
                raise ZeroDivisionError

    with pytest.raises(UsageError, match="has ended this transaction"):
        end(fails=False)
    with pytest.raises(ZeroDivisionError):
        end(fails=True)
    assert (made.effects(), made.store.inbox.seen("work", ["a"])) == ([], [])
    with made.store.transaction() as session:
        made.effect(session, 3)
    assert made.effects() == [3]


@pytest.mark.parametrize("continues", [False, True])
@pytest.mark.parametrize("statement", ["COMMIT", "ROLLBACK"])
def test_a_statement_that_ends_the_transaction_is_an_error(made, statement, continues):
    if continues and isinstance(made.store, SqlAlchemyStore) and made.store.dialect == "sqlite":
        return  # Python's sqlite3 begins a new transaction before the next statement that writes

    def end() -> None:
        with made.store.transaction() as session:
            made.effect(session, 1)
            made.execute(session, statement)
            if continues:
                made.effect(session, 2)

    with pytest.raises(UsageError, match="has ended this transaction"):
        end()
    assert (1 in made.effects()) == (statement == "COMMIT")
    with made.store.transaction() as session:
        made.effect(session, 3)
    assert 3 in made.effects()


def test_a_transaction_without_a_statement_is_no_error(made):
    with made.store.transaction():
        pass
    with made.store.transaction() as session:
        if isinstance(made.store, SqlAlchemyStore):
            session.connection()


@pytest.mark.parametrize("first", ["no SQL", "INSERT INTO effects VALUES (1), (1)"])
def test_after_a_first_statement_that_fails_the_others_are_not_committed_alone(made, first):
    def fail() -> None:
        with made.store.transaction() as session:
            with contextlib.suppress(*ERRORS):
                made.execute(session, first)
            with contextlib.suppress(*ERRORS):
                made.effect(session, 2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert made.effects() == []


def test_a_missing_table_is_an_outage_that_says_what_to_do(made):
    with pytest.raises(StoreOutage, match="tables are missing"):  # noqa: SIM117 -- one is expected
        with made.store.transaction() as session:
            made.execute(session, "SELECT n FROM not_migrated_yet")


def test_a_role_without_a_privilege_is_an_outage_and_a_row_that_a_policy_refuses_is_none(made):
    if made.store.dialect == "sqlite":
        return  # SQLite has no roles

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
            made.store.inbox.add_new("work", ["a"])
            getattr(session, name)()

    refused = "transaction of the store|within a Transaction|transaction is open|is closed"
    with pytest.raises(Exception, match=refused):
        end_the_transaction()
    with made.store.transaction():
        assert made.store.inbox.add_new("work", ["a"]) == ["a"]
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
        made.store.inbox.add_new("work", [name])
    assert other.inbox.add_new("work", ["a"]) == ["a"]
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
    call = Handler(handle, Numbered, batch=False).make_callable(
        made.store.session_type, Resources(None)
    )
    with made.store.transaction() as session:
        call({"n": 7}, Given("the bus", session, None))
    assert (made.effects(), written) == ([7], [None])


def test_the_example_of_a_store_of_ones_own_is_short_and_shown_whole():
    text = Path(sys.modules[PsycopgStore.__module__].__file__).read_text()
    assert len(text.splitlines()) <= 68
    assert f"```python\n{text}```" in (ROOT / "docs/how-to/database.md").read_text()
