"""Sessions and transactions of a store on PostgreSQL, and outages of its server."""

from __future__ import annotations

import contextlib

import peewee
import pytest
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from feedbus.errors import Outage
from feedbus.store.peewee import (
    PeeweeStore,
    bind,
    bound,
    close_bound,
    database,
    transaction,
)
from servers.postgres import Postgres


def test_what_is_done_with_the_drivers_connection_is_part_of_the_transaction(store_url):
    database.execute_sql("CREATE TABLE effects (n integer)")
    with contextlib.suppress(ZeroDivisionError), transaction():
        database.connection().cursor().execute("INSERT INTO effects VALUES (1)")
        _ = 1 / 0
    assert database.execute_sql("SELECT count(*) FROM effects").fetchone() == (0,)


@pytest.fixture
def postgres_url(any_postgres: Postgres):
    url = any_postgres.new_database()
    bind(PeeweeStore(url))
    bound().set_up()
    yield url
    close_bound()
    any_postgres.drop_database(url)


def end_sessions(server: Postgres) -> None:
    server.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND application_name = 'feedbus'"
    )


@pytest.mark.integration
def test_a_transaction_whose_session_was_ended_is_an_outage_and_the_next_one_works(
    any_postgres: Postgres, postgres_url
):
    def write():
        with transaction():
            bound().outbox.put("x", {"n": 1})
            end_sessions(any_postgres)
            bound().outbox.put("x", {"n": 2})

    with pytest.raises(Outage):
        write()
    with transaction():
        bound().outbox.put("x", {"n": 3})
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":3}']


@pytest.mark.integration
def test_a_transaction_that_begins_on_an_ended_session_does_not_notice(
    any_postgres: Postgres, postgres_url
):
    bound().ready()
    end_sessions(any_postgres)
    with transaction():
        bound().outbox.put("x", {"n": 1})
    end_sessions(any_postgres)
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}']


def in_transaction() -> bool:
    """Whether the server has begun a transaction on this thread's connection."""
    opened = bound().database._state.conn  # a call of connection() would begin the transaction
    return opened is not None and opened.info.transaction_status != TRANSACTION_STATUS_IDLE


@pytest.mark.integration
def test_a_transaction_begins_on_the_server_with_its_first_statement(postgres_url):
    with transaction():
        assert not in_transaction()
        bound().outbox.put("x", {"n": 1})
        assert in_transaction()
    assert not in_transaction()
    with transaction(), database.atomic():
        bound().outbox.put("x", {"n": 2})
    with transaction():
        pass
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}', '{"n":2}']


@pytest.mark.integration
@pytest.mark.parametrize("sql", ["SELECT 1/0", "SELECT nothing", "no SQL at all"])
def test_a_transaction_whose_first_statement_fails_is_rolled_back(postgres_url, sql):
    with pytest.raises(peewee.PeeweeException), transaction():
        database.execute_sql(sql)
    assert not in_transaction()
    with transaction():
        bound().outbox.put("x", {"n": 1})
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}']


@pytest.mark.integration
def test_a_transaction_that_begins_again_on_another_session_is_rolled_back_as_a_whole(
    any_postgres: Postgres, postgres_url
):
    bound().ready()
    end_sessions(any_postgres)

    def write_and_fail():
        with transaction():
            bound().outbox.put("x", {"n": 1})
            bound().outbox.put("x", {"n": 2})
            assert in_transaction()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert bound().outbox.pending() == []


@pytest.mark.integration
def test_a_stopped_server_is_an_outage_until_it_is_back(any_postgres: Postgres, postgres_url):
    bound().outbox.put("x", {"n": 1})
    any_postgres.kill()
    try:
        with pytest.raises(Outage), transaction():
            bound().outbox.put("x", {"n": 2})
        with pytest.raises(Outage, match="refused"):
            bound().ready()
    finally:
        any_postgres.start()
    bound().ready()
    assert [entry.payload for entry in bound().outbox.pending()] == ['{"n":1}']


@pytest.mark.integration
def test_a_statement_that_takes_too_long_is_the_messages_fault(postgres_url):
    bind(PeeweeStore(f"{postgres_url}?options=-c%20statement_timeout%3D50"))
    with pytest.raises(peewee.OperationalError, match="statement timeout") as caught:
        database.execute_sql("SELECT pg_sleep(20)")
    assert not bound().is_outage(caught.value)


@pytest.mark.integration
def test_settings_of_the_url_go_before_the_defaults(postgres_url):
    def setting(name):
        return database.execute_sql(f"SHOW {name}").fetchone()[0]

    assert setting("statement_timeout") == "30s"
    assert setting("tcp_keepalives_idle") == "30"
    assert setting("application_name") == "feedbus"
    bind(PeeweeStore(f"{postgres_url}?application_name=mine&options=-c%20statement_timeout%3D7s"))
    assert setting("statement_timeout") == "7s"
    assert setting("application_name") == "mine"


@pytest.mark.integration
def test_no_text_shows_the_password(any_postgres: Postgres):
    url = f"postgresql://nobody:s3cret@127.0.0.1:{any_postgres.port}/nowhere"
    bind(PeeweeStore(url))
    with pytest.raises(Outage) as caught:
        bound().ready()
    close_bound()
    assert "s3cret" not in str(caught.value)
