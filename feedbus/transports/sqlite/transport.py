"""The transport that Kombu is given: its connections are to a file, named by virtual_host."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import amqp
from kombu.transport import base, pyamqp

from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.file import BUSY_TIMEOUT_SECONDS


class Transport(base.Transport):
    """Kombu's virtual transports poll, keep bindings in memory and republish; this one does not.

    Use it as `kombu.connection.Connection(transport=Transport, virtual_host="/abs/broker.db")`;
    the transport option busy_timeout_seconds says how long a locked file is waited for.
    """

    driver_type = "sqlite"
    driver_name = "feedbus"
    connection_errors = (*pyamqp.Transport.connection_errors, sqlite3.OperationalError)
    channel_errors = pyamqp.Transport.channel_errors
    recoverable_connection_errors = (
        *pyamqp.Transport.recoverable_connection_errors,
        sqlite3.OperationalError,
    )
    recoverable_channel_errors = pyamqp.Transport.recoverable_channel_errors
    implements = base.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic", "fanout", "x-consistent-hash"]),
        heartbeats=False,
    )

    def establish_connection(self) -> Connection:
        """Open the file that the connection's virtual_host names."""
        client: Any = self.client
        options = client.transport_options
        return Connection(
            Path(client.virtual_host),
            busy_timeout_seconds=options.get("busy_timeout_seconds", BUSY_TIMEOUT_SECONDS),
        )

    def close_connection(self, connection: Connection) -> None:
        """Close the connection; what it held goes back."""
        connection.close()

    def create_channel(self, connection: Connection) -> Any:
        """Open a channel."""
        return connection.channel()

    def close_channel(self, channel: Any) -> None:
        """Close a channel."""
        channel.close()

    def drain_events(self, connection: Connection, **kwargs: Any) -> None:
        """Let one thing happen, or raise TimeoutError."""
        connection.drain_events(**kwargs)

    def verify_connection(self, connection: Connection) -> bool:
        """Tell whether the connection is open."""
        return connection.connected

    def driver_version(self) -> str:
        """Name SQLite's version and py-amqp's, whose messages and errors are used."""
        return f"{sqlite3.sqlite_version} (amqp {amqp.__version__})"
