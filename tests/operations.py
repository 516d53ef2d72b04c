"""The operations of small systems as tests use them: served on loopback by threads."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

from feedbus.operations.access_control import Guard
from feedbus.operations.http_server import Address, Server, bind
from feedbus.operations.queue_depths import QueueDepths
from feedbus.operations.routes import application
from feedbus.store import open_store
from tests.projects import PATIENCE_SECONDS
from tests.site import Answer
from tests.systems import System


class Served:
    """A system whose operations are served."""

    def __init__(self, system: System, port: int) -> None:
        self.system, self.port = system, port

    def get(self, path: str, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@contextmanager
def served(system: System, guard: Guard | None = None) -> Iterator[Served]:
    store = open_store(system.topology)
    with (
        closing(store),
        QueueDepths(system.topology) as depths,
        bind(Address("127.0.0.1", 0)) as listener,
    ):
        app = application(system.topology, store, depths, guard or Guard())
        server = Server(app, listener, threads=2)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            yield Served(system, server.port)
        finally:
            server.stop()
            thread.join()
