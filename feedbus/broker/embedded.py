"""The embedded broker: one SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from kombu.connection import Connection

from feedbus.broker import locks
from feedbus.broker.connection_without_reconnect import SingleConnection
from feedbus.broker.interface import HeartbeatSource, SeenBinding, SeenExchange, SeenQueue, Survey
from feedbus.broker.outages import open_connection
from feedbus.clock import SYSTEM, Clock
from feedbus.errors import BrokerOutage
from feedbus.transports import sqlite
from feedbus.transports.sqlite.read_only_view import BrokerRows, survey
from feedbus.urls import BrokerUrl
from feedbus.wire import amqp_protocols


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """Implements the interface Broker for the embedded broker of one SQLite file.

    Attributes:
        url: the URL of the broker in the topology.
        file: the path of the file.
        has_many_hosts: is False, because only processes of one host can use the file.
        in_flight_seconds: is 0, because a routed message is in its queue immediately.
        queue_written_seconds: is 0, because a declared queue is in the file immediately.
        clock: the clock by which all users of the broker wait and measure times.
    """

    url: BrokerUrl
    file: Path
    has_many_hosts: bool = False
    in_flight_seconds: float = 0.0
    queue_written_seconds: float = 0.0
    clock: Clock = SYSTEM

    def load(self) -> None:
        """Do nothing: this module has imported the transport."""

    def connect(self, heartbeats: HeartbeatSource) -> Connection:
        """Open a connection to the file; create the folder of the file if it is missing.

        Args:
            heartbeats: ignored, because a file needs no heartbeats.

        Raises:
            BrokerOutage: the folder or the file cannot be created, or the file cannot be read.
        """
        del heartbeats
        folder = self.file.parent
        try:
            # Only one folder is created: with a misspelt path, the broker would be empty.
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            msg = (
                f"broker {self.url}: the folder {folder} cannot be created: {reason}; correct the"
                " folder that is to contain it, or [broker] url"
            )
            raise BrokerOutage(msg) from error
        return open_connection(
            SingleConnection(transport=sqlite.Transport, virtual_host=str(self.file)), self.url
        )

    def locked(
        self, connection: amqp_protocols.Connection, project: str, wait_seconds: float
    ) -> AbstractContextManager[None]:
        """Hold the lock on a file next to the broker file, in a `with` block.

        All projects of the broker share the lock.

        Args:
            connection: ignored.
            project: ignored.
            wait_seconds: how long to wait if another process holds the lock.

        Raises:
            UsageError: another process holds the lock for longer than wait_seconds.
        """
        del connection, project
        return locks.hold_file(Path(f"{self.file}.lock"), wait_seconds)

    def survey(self, prefixes: tuple[str, ...]) -> Survey:
        """Return all objects in the file; no connection to the broker is opened for this.

        Args:
            prefixes: ignored: all queues are returned.

        Raises:
            BrokerOutage: the file cannot be read.
        """
        del prefixes
        try:
            return survey_of_rows(survey(self.file))
        except (sqlite3.DatabaseError, OSError) as error:
            msg = f"broker file {self.file}: {error}"
            raise BrokerOutage(msg) from error

    def refusal(self) -> str:
        """Return "": the embedded broker never blocks publishers.

        feedbus.operations.unwritable_folders checks whether the disk of the file can be written to.
        """
        return ""


def survey_of_rows(rows: BrokerRows) -> Survey:
    """Return the survey of an embedded broker or a broker in memory, from its table rows."""
    return Survey(
        [SeenExchange(*row) for row in rows.exchanges],
        [SeenQueue(*row) for row in rows.queues],
        [
            SeenBinding(
                source, "queue" if kind == "queue" else "exchange", destination, key, arguments
            )
            for source, kind, destination, key, arguments in rows.bindings
        ],
    )
