"""A RabbitMQ that tests may stop, restart and frighten; what others need runs on another."""

from __future__ import annotations

import pytest

from tests.servers import rabbitmq as servers
from tests.servers.required import RABBITMQ, missing

CONFIG = "max_message_size = 200000\n"


@pytest.fixture(scope="session")
def fragile_rabbitmq(tmp_path_factory):
    """Run a RabbitMQ that does not survive every test unharmed, but is up at each one's start."""
    if not servers.is_installed():
        missing(RABBITMQ)
    with servers.RabbitMQ(tmp_path_factory.mktemp("fragile"), config=CONFIG) as node:
        yield node
