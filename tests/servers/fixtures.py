"""Fixtures of real databases; what needs one that is missing skips itself, or fails in CI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedbus import outbox
from store import migrations
from tests.servers.postgres import MissingServer, Postgres
from tests.servers.required import missing


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL of this session's own."""
    try:
        server = Postgres.create()
    except MissingServer as error:
        missing(str(error))
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store_url(request, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, on each kind of database in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/feeds.db"
        outbox.close_store()
        return
    server = request.getfixturevalue("postgres")
    url = server.new_database()
    yield url
    outbox.close_store()
    server.drop_database(url)


@pytest.fixture
def store_url(empty_store_url: str) -> str:
    """The URL of a database with all tables, which is open."""
    migrations.forward(empty_store_url)
    outbox.open_store(empty_store_url)
    return empty_store_url
