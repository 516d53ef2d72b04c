"""TLS for RabbitMQ and its management API.

The server's certificate and the host name in it are verified, unless the URL has ssl_verify=none.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from feedbus.errors import WrongBrokerSettings
from feedbus.logs import EventLog
from feedbus.urls import Tls

events = EventLog("feedbus.broker")


def make_context(tls: Tls, server: str) -> ssl.SSLContext:
    """Return the SSL context that verifies a server as its URL says.

    Args:
        tls: the options of the URL.
        server: the URL without its password, for the texts of errors.

    Raises:
        WrongBrokerSettings: a file of a certificate or key cannot be read, or is invalid. A
            consumer then holds: it tries again later.

    """
    for file in (tls.ca_certs, tls.certfile, tls.keyfile):
        with _used(server, file):
            if file is not None:
                file.open("rb").close()
    with _used(server, tls.ca_certs):
        context = ssl.create_default_context(cafile=tls.ca_certs)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _used(server, tls.keyfile or tls.certfile):
        if tls.certfile:
            context.load_cert_chain(tls.certfile, tls.keyfile, password=_no_passphrase)
    if not tls.verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        _warn(server)
    return context


def amqp_options(tls: Tls, host: str, server: str) -> dict[str, Any]:
    """Return the options with which py-amqp verifies a server.

    py-amqp does not accept an SSL context, and verifies the host name only if the options contain
    it. If a key has a passphrase, py-amqp would ask for it on the terminal. So this function first
    calls make_context(), which reads the files, and refuses such a key.

    Args:
        tls: the options of the URL.
        host: the host of the URL. The certificate must contain this name, or ssl_server_name if the
            URL has this option.
        server: the URL without its password, for the texts of errors.

    Raises:
        WrongBrokerSettings: a file of a certificate or key cannot be read, or is invalid, or the
            key has a passphrase. A consumer then holds: it tries again later.

    """
    make_context(tls, server)
    options: dict[str, Any] = {"tls_minimum_version": ssl.TLSVersion.TLSv1_2}
    for name, file in (
        ("ca_certs", tls.ca_certs),
        ("certfile", tls.certfile),
        ("keyfile", tls.keyfile),
    ):
        if file is not None:
            options[name] = str(file)
    if tls.verified:
        return options | {
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": tls.server_name or host,
        }
    return options | {"cert_reqs": ssl.CERT_NONE}


@contextlib.contextmanager
def _used(server: str, file: Path | None) -> Iterator[None]:
    """Raise WrongBrokerSettings if the code of the `with` block cannot use the file."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        msg = f"{server}: {file} cannot be used for TLS: {reason}"
        raise WrongBrokerSettings(msg) from error


def _no_passphrase() -> str:
    """Raise an error; OpenSSL calls this function if a key has a passphrase."""
    msg = (
        "the key has a passphrase; save the key without a passphrase in a file that only its owner"
        " can read"
    )
    raise ValueError(msg)


@cache
def _warn(server: str) -> None:
    """Log, once in each process, that the certificate of a server is not verified."""
    events.warning(
        "tls_not_verified",
        "ssl_verify=none accepts any certificate, so anyone between this process and the server can"
        " read the password and every message; remove ssl_verify=none from the URL",
        server=server,
    )
