"""One broker fixture for all brokers, empty for each test."""

from __future__ import annotations

import pytest
from kombu.connection import Connection

from feedbus.broker.rabbitmq.transport import Transport
from feedbus.clock import SystemClock, VirtualClock
from feedbus.transports import memory, sqlite
from servers import versions
from servers.rabbitmq import PASSWORD, USER
from tests.conformance import drive


class Broker:
    """Connects as a client does, and closes its connections at the end.

    Args:
        version: RabbitMQ's version; None for the embedded broker and the broker in memory.
        clock: the clock of the broker.
        parameters: the arguments of a Kombu connection.

    """

    def __init__(self, version=None, clock=None, **parameters):
        self.version = version
        self.clock = clock or SystemClock()
        self._parameters = parameters
        self._opened = []

    def connect(self, **parameters):
        connection = Connection(**self._parameters | parameters)
        self._opened.append(connection)
        connection.ensure_connection(max_retries=1, timeout=10)
        return connection

    def channel(self):
        return self.connect().channel()

    def feedbus_channel(self):
        """Return a channel as feedbus opens it: with its own transport for RabbitMQ."""
        return self.connect(**{"transport": Transport} if self.version else {}).channel()

    def close(self):
        for connection in self._opened:
            connection.release()


@pytest.fixture(params=["embedded", "memory", *versions.chosen()])
def broker(request, tmp_path, monkeypatch):
    if request.param == "embedded":
        made = Broker(transport=sqlite.Transport, virtual_host=str(tmp_path / "broker.db"))
        yield made
        made.close()
        return
    if request.param == "memory":
        made = Broker(clock=VirtualClock(), transport=memory.Transport, virtual_host="conformance")
        memory.create(memory.MemoryBroker("conformance", clock=made.clock))
        monkeypatch.setattr(drive, "clock", made.clock)
        yield made
        made.close()
        memory.remove("conformance")
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
