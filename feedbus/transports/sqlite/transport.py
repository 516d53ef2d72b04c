"""Kombu's transport for the embedded broker; virtual_host or the URL contains the path."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import amqp
from kombu.transport import base

from feedbus.transports.sqlite.channel import Channel
from feedbus.transports.sqlite.connection import Connection
from feedbus.transports.sqlite.connection_backend import open_file
from feedbus.transports.sqlite.read_only_view import BrokerRows, survey
from feedbus.transports.sqlite.routing import TYPES
from feedbus.transports.sqlite.transactions import BUSY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from kombu.connection import Connection as Client


class ScheduledCall(Protocol):
    """A call that an event loop makes later, unless it is cancelled."""

    def cancel(self) -> None:
        """Cancel the call."""


class Loop(Protocol):
    """The methods of Kombu's event loop, `kombu.asynchronous.Hub`, that the transport calls."""

    def add_reader(self, fds: int, callback: Callable[..., None], *args: Any) -> None:
        """Call `callback` with the arguments whenever the descriptor `fds` can be read."""

    def call_soon(self, callback: Callable[..., None], *args: Any) -> object:
        """Call `callback` with the arguments in the next iteration of the loop."""

    def call_later(self, delay: float, callback: Callable[..., None], *args: Any) -> ScheduledCall:
        """Call `callback` with the arguments after `delay` seconds; return the planned call."""


class Management(base.Management):
    """Answers Kombu's management requests; `celery list bindings` makes them."""

    def get_bindings(self) -> list[dict[str, str]]:
        """Return source, destination and routing_key of each binding, the oldest one first."""
        return [
            {"source": source, "destination": destination, "routing_key": key}
            for source, _, destination, key, _ in self.transport.survey().bindings
        ]


class Transport(base.Transport):
    """Kombu's transport for the embedded broker.

    Unlike Kombu's virtual transports, it waits for events and does not poll. Its channels have the
    methods, messages and errors of py-amqp, so its driver type is amqp. Kombu makes one Transport
    object for each `kombu.Connection`, the client.

    There are two transport options. `busy_timeout_seconds` is the time limit of a wait for a locked
    file. `confirm_publish` is the same as in py-amqp: basic_publish() returns when the message is
    stored durably, and raises amqp.exceptions.MessageNacked if a queue refuses the message.

    Example:
        >>> kombu.Connection("sqlite:////var/lib/app/broker.db", transport=Transport)
        >>> kombu.Connection(transport=Transport, virtual_host="/var/lib/app/broker.db")
    """

    Management = Management

    can_parse_url = True
    driver_type = "amqp"
    driver_name = "feedbus"
    connection_errors = Connection.connection_errors
    channel_errors = Connection.channel_errors
    recoverable_connection_errors = Connection.recoverable_connection_errors
    recoverable_channel_errors = Connection.recoverable_channel_errors
    implements = base.Transport.implements.extend(
        asynchronous=True,
        exchange_type=TYPES,
        heartbeats=False,
    )

    def __init__(self, client: Client, **options: Any) -> None:
        """Create the transport for a connection of Kombu.

        Args:
            client: the connection of Kombu.
            options: the options of Kombu's Transport.

        """
        super().__init__(client, **options)
        self._reading = False  # whether the event loop calls on_readable() in its next iteration
        self._later: ScheduledCall | None = None

    def establish_connection(self) -> Connection:
        """Return a connection to the file that Kombu's virtual_host or URL names.

        Kombu calls it when a `kombu.Connection` connects.

        Raises:
            FileUnavailable: the file cannot be opened or created.
            ValueError: there is no path in the virtual_host or URL.
        """
        client: Any = self.client
        options = client.transport_options or {}
        confirm_publish = options.get("confirm_publish", False)
        return self._open(client, options, confirm_publish=confirm_publish)

    def _open(
        self, client: Any, options: Mapping[str, Any], *, confirm_publish: bool
    ) -> Connection:
        patience = options.get("busy_timeout_seconds", BUSY_TIMEOUT_SECONDS)
        backend = open_file(broker_path(client), busy_timeout_seconds=patience)
        return Connection(backend, confirm_publish=confirm_publish, client=client)

    def survey(self) -> BrokerRows:
        """Return the exchanges, queues and bindings of the broker as rows, for an inventory."""
        return survey(broker_path(self.client))

    def close_connection(self, connection: Connection) -> None:
        """Close the connection; unsettled deliveries return to their queues."""
        connection.client = None
        connection.close()

    def _collect(self, connection: Connection | None) -> None:
        if connection is not None:
            connection.collect()

    def create_channel(self, connection: Connection) -> Channel:
        """Open a channel, and return it."""
        return connection.channel()

    def close_channel(self, channel: Channel) -> None:
        """Close a channel."""
        channel.close()

    def drain_events(self, connection: Connection, **kwargs: Any) -> None:
        """Process one event: report confirms and returned messages, or deliver one message.

        Args:
            connection: the connection.
            kwargs: `timeout`, the seconds to wait for an event; without it, the wait has no limit.

        Raises:
            TimeoutError: no event occurred in time, a signal's handler ran meanwhile, or the
                descriptor of wake_on() is readable.
        """
        connection.drain_events(**kwargs)

    def register_with_event_loop(self, connection: Connection, loop: Loop) -> None:
        """Let Kombu's event loop call on_readable() when events arrive.

        Celery's worker calls it.
        """
        loop.add_reader(connection.join_loop(), self.on_readable, connection, loop)

    def on_readable(self, connection: Connection, loop: Loop) -> None:
        """Process one event; the event loop calls it again until no event is left."""
        self._reading = False
        if not connection.connected:
            return
        try:
            connection.drain_events(timeout=0)
        except TimeoutError:
            self._check_later(connection, loop)
        else:
            self._check_soon(connection, loop)

    def _check_soon(self, connection: Connection, loop: Loop) -> None:
        if not self._reading:
            self._reading = True
            loop.call_soon(self.on_readable, connection, loop)

    def _check_later(self, connection: Connection, loop: Loop) -> None:
        # When a message expires, no other connection wakes this connection. So a timer checks.
        if self._later is not None:
            self._later.cancel()
            self._later = None
        seconds = connection.check_seconds()
        if seconds is not None:
            self._later = loop.call_later(seconds, self.on_readable, connection, loop)

    def verify_connection(self, connection: Connection) -> bool:
        """Return whether the connection is open; Kombu calls it before it uses the connection."""
        return connection.connected

    def qos_semantics_matches_spec(self, connection: Connection) -> bool:
        """Return False: as on RabbitMQ, a prefetch limits a whole channel only with a_global.

        In the AMQP specification, a prefetch without a_global limits the whole channel. Celery
        reads the result before it sets a prefetch for a whole channel: because of False, it sets
        a_global.
        """
        del connection
        return False

    def driver_version(self) -> str:
        """Return the versions of SQLite and of py-amqp, whose messages and errors are used.

        Kombu and Celery print it in their reports.
        """
        return f"{sqlite3.sqlite_version} (amqp {amqp.__version__})"

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002, FBT001, FBT002 -- Kombu's signature
        """Return the URL of the broker file, such as sqlite:////var/lib/app/broker.db.

        The arguments are ignored, because the URL has no password. Kombu calls it, for example for
        its logs.
        """
        return f"sqlite:///{broker_path(self.client)}"


def broker_path(client: Any) -> Path:
    """Return the path of the broker file to which a Kombu connection belongs.

    The path is the connection's virtual_host. If it has none, the path is that of its URL. Instead
    of a URL, the connection can also have only a path.

    Args:
        client: the `kombu.Connection`.

    Raises:
        ValueError: there is no path.
    """
    if client.virtual_host not in {None, "", "/"}:
        return Path(client.virtual_host)
    named = client.hostname or ""
    scheme, mark, path = named.partition("://")
    if mark and scheme == "sqlite" and len(path) > 1 and path.startswith("/"):
        return Path(unquote(path[1:]))
    if not mark and "/" in named:
        return Path(named)
    msg = (
        "expected the path of the broker file as virtual_host, or a URL such as"
        f" sqlite:////var/lib/app/broker.db, got {named!r}"
    )
    raise ValueError(msg)
