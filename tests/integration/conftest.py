"""A RabbitMQ that tests may stop and restart; other tests use another one."""

from __future__ import annotations

import pytest

from servers.rabbitmq import RabbitMQ
from tests import required_servers as required

CONFIG = "max_message_size = 200000\n"


@pytest.fixture(scope="session")
def fragile_rabbitmq(tmp_path_factory):
    """Run a RabbitMQ that tests may damage, but that runs at the start of each test."""
    folder = tmp_path_factory.mktemp("fragile")
    with RabbitMQ(folder, config=CONFIG, version=required.rabbitmq()) as node:
        yield node
