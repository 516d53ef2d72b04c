"""Connect to a broker, tell its outages, and hold its topology's lock."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from kombu.connection import Connection

from feedbus.broker import locks
from feedbus.broker.tls import amqp_options
from feedbus.errors import BrokerOutage, Outage, UsageError
from feedbus.topology import Topology
from feedbus.urls import BrokerUrl, Node

CONNECT_TIMEOUT_SECONDS = 5.0
WRITE_TIMEOUT_SECONDS = 20  # a broker that is short of memory stops reading
HEARTBEAT_SECONDS = 20.0
LOCK_TIMEOUT_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.1
TCP_USER_TIMEOUT_MILLISECONDS = 30_000
TCP_USER_TIMEOUT = 18  # Linux's number; absent from the socket module elsewhere


def connect(topology: Topology, *, beating: bool = False) -> Connection:
    """Return an open connection to the topology's broker: to the first node that answers.

    Args:
        topology: whose broker.
        beating: True for a caller that sends heartbeats; the broker then drops the connection
            when they stop. Others are found dead by TCP alone.

    Raises:
        BrokerOutage: the broker cannot be reached, or does not let us in.

    """
    url = topology.broker_url
    if url.file is not None:
        return _connected(_embedded(url.file), url)
    if url.memory is not None:
        return _connected(_memory(url.memory), url)
    *others, last = url.nodes
    for node in others:
        with contextlib.suppress(Outage):
            return _connected(_rabbitmq(node, beating=beating), node)
    return _connected(_rabbitmq(last, beating=beating), last)


def _connected(connection: Connection, url: BrokerUrl | Node) -> Connection:
    with outage(connection, url):
        # Once: kombu's connect() sleeps for two seconds and tries again.
        connection.ensure_connection(
            max_retries=0, interval_start=0, reraise_as_library_errors=False
        )
    return connection


def _embedded(file: Path) -> Connection:
    from feedbus.transports.sqlite import Transport

    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Connection(transport=Transport, virtual_host=str(file))


def _memory(name: str) -> Connection:
    from feedbus.transports.memory import Transport

    return Connection(transport=Transport, virtual_host=name)


def _rabbitmq(node: Node, *, beating: bool) -> Connection:
    from feedbus.broker.rabbitmq import Transport

    heartbeat_seconds = node.heartbeat_seconds or HEARTBEAT_SECONDS
    return Connection(
        hostname=f"[{node.host}]" if ":" in node.host else node.host,
        port=node.port,
        userid=node.user,
        password=node.password,
        virtual_host=node.virtual_host,
        transport=Transport,
        ssl=amqp_options(node.tls, node.host, f"broker {node}") if node.tls else False,
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
    if topology.broker_url.memory is not None:
        import feedbus.transports.memory
    elif topology.broker_url.file is not None:
        import feedbus.transports.sqlite
    else:
        import feedbus.broker.rabbitmq  # noqa: F401 -- the same


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
def outage(connection: Connection, url: BrokerUrl | Node) -> Iterator[None]:
    """Raise BrokerOutage for whatever a lost or refusing broker raises inside."""
    from amqp.exceptions import AccessRefused, NotAllowed

    try:
        yield
    except AccessRefused as error:
        what = (
            "the user lacks a permission; see `rabbitmqctl list_permissions`, and grant it with"
            " `rabbitmqctl set_permissions`"
            if "access to" in str(error.reply_text)
            else "check the user and the password in [broker] url, and the user's permissions on"
            " its virtual host"
        )
        msg = f"broker {url}: {error.reply_text}; {what}"
        raise BrokerOutage(msg) from error
    except NotAllowed as error:
        msg = (
            f"broker {url}: {error.reply_text}; check the virtual host, which is what"
            " follows the port in [broker] url ('/' is written as //)"
        )
        raise BrokerOutage(msg) from error
    except ssl.SSLCertVerificationError as error:
        msg = (
            f"broker {url}: its certificate is refused: {error.verify_message}; name its authority"
            " with ?ssl_ca_certs=FILE in [broker] url, or the name in the certificate with"
            " ssl_server_name=NAME"
        )
        raise BrokerOutage(msg) from error
    except connection_errors(connection) as error:
        msg = f"broker {url}: {error or type(error).__name__}"
        raise BrokerOutage(msg) from error


@contextlib.contextmanager
def locked(connection: Connection, topology: Topology) -> Iterator[None]:
    """Hold the lock under which rings are switched; whoever dies with it gives it back.

    Raises:
        UsageError: somebody else holds it for longer than LOCK_TIMEOUT_SECONDS.

    """
    file = topology.broker_url.file
    taken = (
        locks.held(Path(f"{file}.lock"), LOCK_TIMEOUT_SECONDS)
        if file is not None
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
