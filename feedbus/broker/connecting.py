"""Connect to a broker, tell its outages, and hold its topology's lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

from kombu.connection import Connection

from feedbus.broker import locks
from feedbus.errors import Outage, UsageError
from feedbus.topology import Topology

CONNECT_TIMEOUT_SECONDS = 5.0
WRITE_TIMEOUT_SECONDS = 20  # a broker that is short of memory stops reading
HEARTBEAT_SECONDS = 20.0
LOCK_TIMEOUT_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.1
READ_AHEAD_BYTES = 16_384
TCP_USER_TIMEOUT_MILLISECONDS = 30_000
TCP_USER_TIMEOUT = 18  # Linux's number; absent from the socket module elsewhere


def connect(topology: Topology, *, beating: bool = False) -> Connection:
    """Return an open connection to the topology's broker: to the first node that answers.

    Args:
        topology: whose broker.
        beating: True for a caller that sends heartbeats; the broker then drops the connection
            when they stop. Others are found dead by TCP alone.

    Raises:
        Outage: the broker cannot be reached, or does not let us in.

    """
    *others, last = topology.broker_urls
    for url in others:
        with contextlib.suppress(Outage):
            return _connect(url, beating=beating)
    return _connect(last, beating=beating)


def _connect(url: str, *, beating: bool) -> Connection:
    connection = _connection(url, beating=beating)
    with outage(connection, url):
        # Once: kombu's connect() sleeps for two seconds and tries again.
        connection.ensure_connection(
            max_retries=0, interval_start=0, reraise_as_library_errors=False
        )
    _read_ahead(connection)
    return connection


def _read_ahead(connection: Connection) -> None:
    """Take all that has arrived from the socket at once, up to READ_AHEAD_BYTES.

    py-amqp asks for a frame's header, its body and its last byte in turn; it keeps what it is
    given beyond that.
    """
    transport = getattr(connection.connection, "transport", None)
    receive = getattr(transport, "_quick_recv", None)
    if transport is not None and receive is not None:
        transport._quick_recv = lambda count: receive(max(count, READ_AHEAD_BYTES))  # noqa: SLF001 -- else two of three reads of a frame are in vain


def _connection(url: str, *, beating: bool) -> Connection:
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        from feedbus.transports.sqlite import Transport

        path = Path("/" + rest.lstrip("/"))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Connection(transport=Transport, virtual_host=str(path))
    rest, _, query = rest.partition("?")
    options = dict(parse_qsl(query))
    heartbeat_seconds = float(options.pop("heartbeat", HEARTBEAT_SECONDS))
    # Not amqp://, which would pick librabbitmq where that happens to be installed.
    return Connection(
        f"pyamqp://{rest}" + (f"?{urlencode(options)}" if options else ""),
        ssl=scheme == "amqps",
        heartbeat=heartbeat_seconds if beating else 0,
        connect_timeout=CONNECT_TIMEOUT_SECONDS,
        transport_options={
            "socket_settings": {TCP_USER_TIMEOUT: TCP_USER_TIMEOUT_MILLISECONDS},
            "confirm_publish": False,
            "write_timeout": WRITE_TIMEOUT_SECONDS,
        },
    )


def load_transport(topology: Topology) -> None:
    """Import what connect() will need, without connecting."""
    _connection(topology.broker_urls[0], beating=False).get_transport_cls()


def close(connection: Connection) -> None:
    """Take leave of a broker, whatever state the connection is in."""
    try:
        connection.release()
    except connection_errors(connection):
        drop(connection)


def drop(connection: Connection) -> None:
    """Close a connection without a word: a broker that reads nothing would never answer."""
    with contextlib.suppress(Exception):
        connection.collect()


def connection_errors(connection: Connection) -> tuple[type[BaseException], ...]:
    """Return what a lost or refusing broker raises on this connection."""
    errors = (*connection.connection_errors, *connection.recoverable_connection_errors)
    return tuple({*errors, ConnectionError, OSError})


@contextlib.contextmanager
def outage(connection: Connection, url: str) -> Iterator[None]:
    """Raise Outage for whatever a lost or refusing broker raises inside."""
    from amqp.exceptions import AccessRefused, NotAllowed

    try:
        yield
    except AccessRefused as error:
        msg = (
            f"broker {public_url(url)}: {error.reply_text}; check the user and the password in"
            " [broker] url, and the user's permissions on its virtual host"
        )
        raise Outage(msg) from error
    except NotAllowed as error:
        msg = (
            f"broker {public_url(url)}: {error.reply_text}; check the virtual host, which is what"
            " follows the port in [broker] url ('/' is written as //)"
        )
        raise Outage(msg) from error
    except connection_errors(connection) as error:
        msg = f"broker {public_url(url)}: {error or type(error).__name__}"
        raise Outage(msg) from error


def public_url(url: str) -> str:
    """Return a URL, or several, without passwords, for messages."""
    return ";".join(_without_password(each) for each in url.split(";"))


def _without_password(url: str) -> str:
    password = urlsplit(url).password
    return url if password is None else url.replace(f":{password}@", ":***@", 1)


@contextlib.contextmanager
def locked(connection: Connection, topology: Topology) -> Iterator[None]:
    """Hold the lock under which rings are switched; whoever dies with it gives it back.

    Raises:
        UsageError: somebody else holds it for longer than LOCK_TIMEOUT_SECONDS.

    """
    scheme, _, rest = topology.broker_url.partition("://")
    taken = (
        locks.held(Path("/" + rest.lstrip("/") + ".lock"), LOCK_TIMEOUT_SECONDS)
        if scheme == "sqlite"
        else _exclusive_queue(connection, f"{topology.name}.lock")
    )
    with taken:
        yield


@contextlib.contextmanager
def _exclusive_queue(connection: Connection, name: str) -> Iterator[None]:
    from amqp.exceptions import ResourceLocked

    deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
    while True:
        channel = connection.channel()
        try:
            channel.queue_declare(name, exclusive=True, auto_delete=True, durable=False)
            break
        except ResourceLocked as error:
            if time.monotonic() > deadline:
                msg = f"{name} is held: another apply or up is at work; wait for it to end"
                raise UsageError(msg) from error
            time.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        # With the connection the lock is gone too, and why it went is what is to be told.
        with contextlib.suppress(*connection_errors(connection)):
            channel.queue_delete(name)
            channel.close()
