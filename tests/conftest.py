"""Servers that tests share; each is private, on loopback, and ended with the session."""

from __future__ import annotations

import os

import pytest

from tests.servers import rabbitmq as servers
from tests.servers.fixtures import empty_store_url, postgres, store_url  # noqa: F401 -- fixtures


def missing(what: str) -> None:
    """Skip with a plain reason, or fail where the servers are required."""
    reason = f"{what} is not installed"
    if os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason}, and FEEDBUS_REQUIRE_SERVERS=1 requires it")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    """Run a RabbitMQ for the session."""
    if not servers.is_installed():
        missing("RabbitMQ (Debian's rabbitmq-server)")
    with servers.RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node
