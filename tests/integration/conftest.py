"""A RabbitMQ that tests may stop, restart and frighten; what others need runs on another."""

from __future__ import annotations

import pytest

from servers.rabbitmq import RabbitMQ
from tests import required_servers as required

CONFIG = "max_message_size = 200000\n"


@pytest.fixture(scope="session")
def fragile_rabbitmq(tmp_path_factory):
    """Run a RabbitMQ that does not survive every test unharmed, but is up at each one's start."""
    folder = tmp_path_factory.mktemp("fragile")
    with RabbitMQ(folder, config=CONFIG, version=required.rabbitmq()) as node:
        yield node
