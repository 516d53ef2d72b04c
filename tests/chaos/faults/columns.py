"""The columns of the table: which broker and which store a fault is injected into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import versions
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ


@dataclass(frozen=True, slots=True)
class Column:
    """A broker and a store.

    Attributes:
        title: the title in the table.
        rabbitmq: the beginning of RabbitMQ's version; "" for the embedded broker.
        postgres: PostgreSQL's major version; None for SQLite.
        queue_type: the type of every queue.

    """

    title: str
    rabbitmq: str = ""
    postgres: int | None = None
    queue_type: str = "classic"


COLUMNS = {
    "classic": Column("RabbitMQ 3.10, classic queues", "3.10", 15),
    "quorum": Column("RabbitMQ 4.3, quorum queues", "4.3", 17, "quorum"),
    "embedded": Column("embedded broker"),
}


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of a column; None where it uses a file."""

    column: Column
    folder: Path
    rabbitmq: RabbitMQ | None = None
    postgres: Postgres | None = None

    @property
    def broker_url(self) -> str:
        """The URL of the broker."""
        return self.rabbitmq.url if self.rabbitmq else f"sqlite:///{self.folder}/var/broker.db"

    @property
    def store_url(self) -> str:
        """The URL of the store."""
        return self.postgres.url() if self.postgres else f"sqlite:///{self.folder}/var/effects.db"

    @property
    def names(self) -> str:
        """The running servers, with their versions."""
        node, server = self.rabbitmq, self.postgres
        shown = f"RabbitMQ {node.version.name}" if node else "embedded broker"
        return f"{shown}, {f'PostgreSQL {server.major}' if server else 'SQLite'}"


@contextmanager
def started(column: Column, folder: Path, *, postgres: int | None = None) -> Iterator[Servers]:
    """Start the servers of a column, and end them.

    Args:
        column: the column whose servers are started.
        folder: the folder for their files, and for the files of the system.
        postgres: a version of PostgreSQL also for a column that has none.

    """
    with ExitStack() as stack:
        node, server = None, None
        if column.rabbitmq:
            version = versions.find(column.rabbitmq)
            if version is None:
                msg = f"RabbitMQ {column.rabbitmq} is not installed: sh servers/install.sh"
                raise RuntimeError(msg)
            (folder / "rabbitmq").mkdir()
            node = stack.enter_context(RabbitMQ(folder / "rabbitmq", version=version))
        if major := column.postgres or postgres:
            server = Postgres.create(major)
            stack.callback(server.remove)
        yield Servers(column, folder, node, server)
