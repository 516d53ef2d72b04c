"""Convert connection errors of a broker into outages; close connections without errors."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator

from kombu.connection import Connection

from feedbus.errors import BrokerOutage, WrongBrokerSettings
from feedbus.urls import BrokerUrl, Node
from feedbus.wire import amqp_protocols


def open_connection(connection: Connection, url: BrokerUrl | Node) -> Connection:
    """Open a connection and return it; only one attempt is made.

    Args:
        connection: a connection that is not open yet.
        url: the URL of the broker, for the text of an error.

    Raises:
        WrongBrokerSettings: the broker refuses the login, the virtual host or the TLS certificate,
            so only an operator can help. It is a subclass of BrokerOutage.
        BrokerOutage: the broker cannot be reached.
    """
    with outage(connection, url):
        # Only one attempt: kombu's connect() would sleep for two seconds and try again.
        connection.ensure_connection(
            max_retries=0, interval_start=0, reraise_as_library_errors=False
        )
    return connection


def close(connection: Connection) -> None:
    """Close a connection to a broker, also if it is lost; no error is raised."""
    try:
        connection.release()
    except connection_errors(connection):
        drop_connection(connection)


def drop_connection(connection: Connection) -> None:
    """Close a connection without the protocol's handshake, which a silent broker never answers.

    No error is raised.
    """
    with contextlib.suppress(Exception):
        connection.collect()


def connection_errors(connection: amqp_protocols.Connection) -> tuple[type[BaseException], ...]:
    """Return the classes of exceptions that mean that a connection is lost or refused."""
    errors = (*connection.connection_errors, *connection.recoverable_connection_errors)
    return tuple({*errors, ConnectionError, OSError})


@contextlib.contextmanager
def outage(connection: Connection, url: BrokerUrl | Node) -> Iterator[None]:
    """Raise BrokerOutage for a connection error of Kombu or py-amqp in a `with` block.

    Args:
        connection: the connection that the block uses.
        url: the URL of the broker, for the text of the error.

    Raises:
        WrongBrokerSettings: only an operator can correct the cause, such as a wrong password. It is
            a subclass of BrokerOutage.
        BrokerOutage: the connection is lost or refused, and a later attempt may succeed.
    """
    from amqp.exceptions import AccessRefused, NotAllowed

    try:
        yield
    except AccessRefused as error:
        what = (
            "the user lacks a permission; see `rabbitmqctl list_permissions`, and grant it with"
            " `rabbitmqctl set_permissions`: a project needs configure, write and read for names"
            " that begin with its name and a dot, and write for amq.default"
            if "access to" in str(error.reply_text)
            else "check the user and the password in [broker] url, and the user's permissions on"
            " its virtual host"
        )
        msg = f"broker {url}: {str(error.reply_text).rstrip('.')}; {what}"
        if "in exclusive use" in str(error.reply_text):
            # Another consumer uses the queue exclusively. This consumer may end, so waiting helps.
            raise BrokerOutage(msg) from error
        raise WrongBrokerSettings(msg) from error
    except NotAllowed as error:
        if "limit" in str(error.reply_text):
            # There are too many connections. Others may end, so waiting can help.
            msg = f"broker {url}: {error.reply_text}; close other connections, or raise the limit"
            raise BrokerOutage(msg) from error
        msg = (
            f"broker {url}: {error.reply_text}; check the virtual host, which"
            " follows the port in [broker] url ('/' is written as //)"
        )
        raise WrongBrokerSettings(msg) from error
    except ssl.SSLCertVerificationError as error:
        msg = (
            f"broker {url}: its TLS certificate cannot be verified: {error.verify_message}; add"
            " ?ssl_ca_certs=FILE (the certificate of its authority) or ssl_server_name=NAME (the"
            " name in its certificate) to [broker] url"
        )
        raise WrongBrokerSettings(msg) from error
    except connection_errors(connection) as error:
        absent = isinstance(error, ConnectionRefusedError | socket.gaierror)
        what = "; start the broker, or correct [broker] url" if absent else ""
        if isinstance(error, TimeoutError):
            what = (
                "; check that the broker runs and that its host and port in [broker] url are right"
            )
        msg = f"broker {url}: {error or type(error).__name__}{what}"
        raise BrokerOutage(msg) from error
