"""One broker fixture for both brokers, empty for each test."""

from __future__ import annotations

import pytest
from kombu.connection import Connection

from feedbus.transports.sqlite import Transport
from tests.servers import versions
from tests.servers.rabbitmq import PASSWORD, USER


class Broker:
    """Connects as a client would; what it opened it closes.

    Args:
        version: RabbitMQ's version; None for the embedded broker.
        parameters: what a connection of Kombu takes.

    """

    def __init__(self, version=None, **parameters):
        self.version = version
        self._parameters = parameters
        self._opened = []

    def connect(self):
        connection = Connection(**self._parameters)
        self._opened.append(connection)
        connection.ensure_connection(max_retries=1, timeout=10)
        return connection

    def channel(self):
        return self.connect().channel()

    def close(self):
        for connection in self._opened:
            connection.release()


@pytest.fixture(params=["embedded", *versions.chosen()])
def broker(request, tmp_path):
    if request.param == "embedded":
        made = Broker(transport=Transport, virtual_host=str(tmp_path / "broker.db"))
        yield made
        made.close()
        return
    node = request.getfixturevalue("rabbitmq_nodes")(request.param)
    with node.virtual_host() as space:
        made = Broker(
            node.version.number,
            transport="pyamqp",
            hostname="127.0.0.1",
            port=node.port,
            userid=USER,
            password=PASSWORD,
            virtual_host=space,
        )
        yield made
        made.close()


@pytest.fixture
def channel(broker):
    return broker.channel()
