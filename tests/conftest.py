"""Servers that tests share; each is private, on loopback, and ended with the session."""

from __future__ import annotations

import pytest

from tests.servers import rabbitmq as servers
from tests.servers.fixtures import empty_store_url, postgres, store_url  # noqa: F401 -- fixtures
from tests.servers.required import RABBITMQ, missing


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    """Run a RabbitMQ for the session."""
    if not servers.is_installed():
        missing(RABBITMQ)
    with servers.RabbitMQ(tmp_path_factory.mktemp("rabbitmq")) as node:
        yield node
