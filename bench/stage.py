"""Private servers, with a new database and a new broker for each run."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench import graphs
from bench.scale import Scale
from feedbus import config
from feedbus.store.peewee import PeeweeStore, bind, close_bound
from feedbus.topology import Topology
from servers.ports import free_port
from servers.postgres import Postgres
from servers.rabbitmq import PASSWORD, USER, RabbitMQ
from store import migrations
from store.queries.sql import run

TOPOLOGY = Path(__file__).resolve().parent.parent / "topology.toml"
SERVERS, EMBEDDED = "servers", "embedded"
EVERYTHING = '{"configure":".*","write":".*","read":".*"}'
SETTINGS = (
    "shared_buffers = '128MB'",  # PostgreSQL's own default
    "max_connections = 100",  # the same
    "track_commit_timestamp = on",  # records when a row became visible
)


@dataclass(frozen=True, slots=True)
class Place:
    """The broker and the store of one run, and the topology that uses them."""

    broker_url: str
    store_url: str
    topology: Topology
    environment: dict[str, str]
    port: int


@dataclass(slots=True)
class Stage:
    """The servers of one benchmark."""

    scale: Scale
    folder: Path
    postgres: Postgres
    rabbitmq: RabbitMQ
    kept: ExitStack
    systems: dict[str, Any] = field(default_factory=dict)
    _templates: dict[tuple[str, str], str] = field(default_factory=dict)
    _places: dict[tuple[str, str], Place] = field(default_factory=dict)
    _count: int = 0

    @classmethod
    @contextmanager
    def started(cls, scale: Scale) -> Iterator[Self]:
        """Start the servers, and end them with all their data."""
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="feedbus-bench-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            postgres = Postgres.create()
            stack.callback(postgres.remove)
            for setting in SETTINGS:
                postgres.sql(f"ALTER SYSTEM SET {setting}")
            postgres.stop()
            postgres.start()
            (folder / "rabbitmq").mkdir()
            node = stack.enter_context(RabbitMQ(folder / "rabbitmq", name=folder.name))
            stack.callback(close_bound)
            kept = stack.enter_context(ExitStack())
            yield cls(scale, folder, postgres, node, kept)

    @contextmanager
    def place(self, kind: str, graph: str) -> Iterator[Place]:
        """Create a place whose store contains a graph; the store is open within the block.

        Args:
            kind: SERVERS for RabbitMQ and PostgreSQL, EMBEDDED for SQLite alone.
            graph: one of bench.graphs.

        """
        template = self._template(kind, graphs.ALL if self.scale.shared else graph)
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir()
        vhost = f"bench-{self._count}"
        if kind == SERVERS:
            database = f"run_{self._count}"
            self.postgres.sql(f"CREATE DATABASE {database} TEMPLATE {template} STRATEGY FILE_COPY")
            store_url = self.postgres.url(database)
            self._ask(f"/api/vhosts/{vhost}", body="{}")
            self._ask(f"/api/permissions/{vhost}/{USER}", body=EVERYTHING)
            broker_url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.rabbitmq.port}/{vhost}"
        else:
            shutil.copy(template, folder / "feeds.db")
            store_url = f"sqlite:///{folder}/feeds.db"
            broker_url = f"sqlite:///{folder}/broker.db"
        place = _place(folder, broker_url, store_url)
        bind(PeeweeStore(store_url))
        if kind == SERVERS:
            run("CHECKPOINT")  # what was seeded is not to be written during the run
        try:
            yield place
        finally:
            close_bound()
            if kind == SERVERS:
                self._ask(f"/api/vhosts/{vhost}", "DELETE")
                self.postgres.drop_database(store_url)
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def kept_place(self, kind: str, graph: str) -> Iterator[Place]:
        """Open a place that runs only read; it is created once and kept."""
        if (kind, graph) not in self._places:
            self._places[kind, graph] = self.kept.enter_context(self.place(kind, graph))
        place = self._places[kind, graph]
        self.reopen(place)
        yield place

    def reopen(self, place: Place) -> None:
        """Open the store of a place that was created before."""
        bind(PeeweeStore(place.store_url))

    def _template(self, kind: str, graph: str) -> str:
        """Return the database or the file with a graph; it is filled once."""
        if (kind, graph) in self._templates:
            return self._templates[kind, graph]
        name = f"{graph}_{kind}"
        if kind == SERVERS:
            self.postgres.sql(f"CREATE DATABASE {name}")
            url, template = self.postgres.url(name), name
        else:
            path = self.folder / f"{name}.db"
            url, template = f"sqlite:///{path}", str(path)
        migrations.forward(url)
        address = f"{url}?options=-c%20statement_timeout%3D0" if kind == SERVERS else url
        bind(PeeweeStore(address, "feedbus")).set_up()
        graphs.seed(graph, self.scale)
        if kind == EMBEDDED:
            run("PRAGMA wal_checkpoint(TRUNCATE)")
        close_bound()
        self._templates[kind, graph] = template
        return template

    def consumers(self, place: Place) -> int:
        """Count the consumers that RabbitMQ knows in a place."""
        vhost = place.broker_url.rpartition("/")[2]
        return len(json.loads(self._ask(f"/api/consumers/{vhost}", "GET")))

    def _ask(self, path: str, method: str = "PUT", body: str | None = None) -> bytes:
        token = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(  # noqa: S310 -- our own server
            f"{self.rabbitmq.management_url}{path}",
            None if body is None else body.encode(),
            headers,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 -- the same
            return bytes(answer.read())


def _place(folder: Path, broker_url: str, store_url: str) -> Place:
    port = free_port()
    own = {
        "FEEDBUS_BROKER_URL": broker_url,
        "FEEDBUS_DATABASE_URL": store_url,
        "FEEDBUS_VAR": str(folder / "var"),
        "FEEDBUS_HTTP_HOST": "127.0.0.1",
        "FEEDBUS_HTTP_PORT": str(port),
        "FEEDBUS_OPERATIONS_PORT": "0",
    }
    left_out = {"FEEDBUS_API_TOKEN", "FEEDBUS_TOPOLOGY"}
    kept = {name: text for name, text in os.environ.items() if name not in left_out}
    environment = {**kept, **own}
    topology = config.load(TOPOLOGY, environ=environment)
    return Place(broker_url, store_url, topology, environment, port)
