"""Fixtures of real servers; a test that needs one that is missing skips itself, or fails in CI."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feedbus.store.peewee import PeeweeStore, bind, close_bound
from servers import versions
from servers.postgres import MissingServer, Postgres, chosen
from servers.rabbitmq import RabbitMQ
from store import migrations
from tests import required_servers as required
from tests.processor_time import shared
from tests.required_servers import missing

# Tests end servers, but not the machine: what the system has taken from them is not lost.
UNSAFE = "fsync = off\nfull_page_writes = off\n"


@pytest.fixture(scope="session")
def rabbitmq_nodes(tmp_path_factory) -> Iterator[Callable[[str], RabbitMQ]]:
    """Return a function that returns this session's node of a version, and starts it first."""
    running: dict[str, RabbitMQ] = {}

    def node(beginning: str) -> RabbitMQ:
        version = required.rabbitmq(beginning)
        if version.name not in running:
            folder = tmp_path_factory.mktemp(f"rabbitmq-{version.name}")
            with shared(f"RabbitMQ {version.name}"):
                running[version.name] = ending.enter_context(RabbitMQ(folder, version=version))
        return running[version.name]

    with ExitStack() as ending:
        yield node


@pytest.fixture(scope="session")
def rabbitmq(rabbitmq_nodes) -> RabbitMQ:
    """Run a RabbitMQ of the first version that this run of the tests is to use."""
    return rabbitmq_nodes(versions.chosen()[0])


@pytest.fixture(scope="session")
def rabbitmq4(rabbitmq_nodes) -> RabbitMQ:
    """Run a RabbitMQ of the newest 4.x that is installed."""
    return rabbitmq_nodes("4")


@pytest.fixture(scope="session", params=versions.chosen())
def any_rabbitmq(request, rabbitmq_nodes) -> RabbitMQ:
    """Run a RabbitMQ of each version that this run of the tests is to use, in turn."""
    return rabbitmq_nodes(request.param)


@pytest.fixture(scope="session")
def postgres_servers() -> Iterator[Callable[[int | None], Postgres]]:
    """Return a function that returns this session's server of a major version, and starts it."""
    running: dict[int | None, Postgres] = {}

    def server(major: int | None) -> Postgres:
        required.skip_where_unwanted()
        if major not in running:
            try:
                with shared(f"PostgreSQL {major or 'oldest'}"):
                    running[major] = Postgres.create(major, UNSAFE)
            except MissingServer as error:
                missing(str(error))
            ending.callback(running[major].remove)
        return running[major]

    with ExitStack() as ending:
        yield server


@pytest.fixture(scope="session")
def postgres(postgres_servers) -> Postgres:
    """Run a PostgreSQL of the oldest version that is installed."""
    return postgres_servers(chosen()[0])


@pytest.fixture(scope="session", params=chosen())
def any_postgres(request, postgres_servers) -> Postgres:
    """Run a PostgreSQL of each version that the store is tested on, in turn."""
    return postgres_servers(request.param)


@pytest.fixture(params=["sqlite", *chosen()])
def empty_store_url(request, postgres_servers, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, on each kind of database in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/feeds.db"
        close_bound()
        return
    server = postgres_servers(request.param)
    url = server.new_database()
    yield url
    close_bound()
    server.drop_database(url)


@pytest.fixture
def store_url(empty_store_url: str) -> str:
    """The URL of a database with all tables, which is open."""
    migrations.forward(empty_store_url)
    bind(PeeweeStore(empty_store_url, "shop")).set_up()
    return empty_store_url
