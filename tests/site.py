"""The web application as tests use it: served by waitress on loopback, with stores of its own."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedbus import broker, config
from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.generations.queue_depths import depths_of
from feedbus.metrics import Metrics
from feedbus.operations.access_control import Guard
from feedbus.operations.http_server import Address, Server, bind
from feedbus.operations.wsgi_application import Application
from feedbus.store import open_store
from feedbus.store.relay import Relay
from feedbus.topology import Topology
from store import migrations
from tests.projects import PATIENCE_SECONDS
from web.app import make_app

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Site:
    """A served application."""

    topology: Topology
    app: Application
    port: int
    relay: Relay

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, fields: Any, headers: Mapping[str, str] | None = None) -> Answer:
        body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
        all_headers = {"Content-Type": "application/json", **(headers or {})}
        return self.call("POST", path, body, all_headers)

    def user(self, login: str, **fields: str) -> int:
        """Create a user and return its id."""
        channel = fields or {"email": f"{login}@example.org"}
        answer = self.post("/api/v2/user", {"login": login, **channel})
        assert answer.status == 201, answer.body
        return int(answer.json["id"])


def topology_in(folder: Path, **urls: str) -> Topology:
    """Load the project's own topology with all of its state in a folder."""
    environ = {
        "FEEDBUS_VAR": str(folder),
        "FEEDBUS_BROKER_URL": f"sqlite:///{folder}/broker.db",
        "FEEDBUS_DATABASE_URL": f"sqlite:///{folder}/feeds.db",
        **urls,
    }
    return config.load(ROOT / "topology.toml", environ=environ)


@contextmanager
def served(topology: Topology, guard: Guard | None = None) -> Iterator[Site]:
    """Serve the application on a free port for as long as the block runs."""
    store = open_store(topology)
    try:
        with (
            Metrics.open(topology.var / "metrics", "web") as metrics,
            LiveBus(topology, metrics, timeout_seconds=0.2) as bus,
            Relay(topology, store, bus) as relay,
            bind(Address("127.0.0.1", 0)) as listener,
        ):
            app = make_app(topology, relay, guard)
            server = Server(app, listener, threads=4)
            thread = threading.Thread(target=server.run)
            thread.start()
            try:
                yield Site(topology, app, server.port, relay)
            finally:
                server.stop()
                thread.join()
    finally:
        store.close()


def set_up(topology: Topology) -> None:
    """Create feedbus's own tables, as feedbus up does."""
    store = open_store(topology)
    store.set_up()
    store.close()


@contextmanager
def fresh_site(folder: Path, guard: Guard | None = None) -> Iterator[Site]:
    """Serve with a new store and a declared broker in a folder."""
    topology = topology_in(folder)
    migrations.migrate(topology)
    set_up(topology)
    topology_setup.set_up(topology)
    with served(topology, guard) as site:
        yield site


def problem(answer: Answer, status: int) -> dict:
    """Check that an answer is a problem of that status, and return it."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == status
    assert answer.json["title"]
    assert answer.json["detail"]
    return answer.json


def waiting(site: Site, consumer: str) -> int:
    """Count what waits in a consumer's queue, asking the broker again."""
    with broker.connect(site.topology) as connection:
        return depths_of(connection, site.topology)[consumer].ready


def drive_by_schemathesis(port: int, folder: Path, *arguments: str) -> str:
    """Run schemathesis against a site, the same cases each time, and return what it printed."""
    command = Path(sys.executable).with_name("st")
    process = subprocess.run(
        [
            *(str(command), "run", f"http://127.0.0.1:{port}/openapi.json"),
            *("--checks", "all", "--generation-deterministic", "--no-color", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout
