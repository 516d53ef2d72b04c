"""Access control: requests need the API token. If none is set, only this host gets answers."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from feedbus.errors import UsageError
from feedbus.operations.http_server import Address, is_loopback
from feedbus.operations.responses import problem

# Nearly every header Host matches this pattern; other values need a slower check.
USUAL_HOST = re.compile(r"(localhost|127\.0\.0\.1)(:[0-9]{1,5})?")
TOKEN = "FEEDBUS_API_TOKEN"  # noqa: S105 -- the variable's name


def token_from(environ: Mapping[str, str]) -> bytes | None:
    """Return the API token (FEEDBUS_API_TOKEN) in the environment; None if missing or blank."""
    token = environ.get(TOKEN, "").strip()
    return os.fsencode(token) or None


@dataclass(frozen=True, slots=True)
class Guard:
    """Checks whether requests to an HTTP server are allowed; the server has one Guard object.

    A request without access gets a problem document (RFC 9457) as its answer.

    Attributes:
        token: the token that requests need; None if no request needs a token.
        loopback: whether only this machine can reach the server. Then requests for metrics need no
            token.

    """

    token: bytes | None = None
    loopback: bool = True

    def check(self, environ: Mapping[str, Any], *, metrics: bool = False) -> None:
        """Check a request to a route that is not public; the Application calls it before the route.

        Args:
            environ: the WSGI environment of the request.
            metrics: whether the request reads only metrics.

        Raises:
            bottle.HTTPResponse: the request is not allowed. The response is a problem document with
                the status 401 (the token is missing or wrong) or 421 (the header Host names another
                machine).

        """
        if self.token is None:
            check_host(environ.get("HTTP_HOST"))
        elif not (metrics and self.loopback):
            self.check_token(environ.get("HTTP_AUTHORIZATION", ""))

    def check_token(self, header: str) -> None:
        """Check that the header Authorization has the token.

        The comparison takes constant time. So the time of an answer says nothing about the token.

        Args:
            header: the value of the header; "" if the request has none.

        Raises:
            bottle.HTTPResponse: with status 401, because the token is missing or wrong.

        """
        scheme, _, shown = header.partition(" ")
        expected = self.token or b""
        right = hmac.compare_digest(shown.strip().encode("latin-1", "replace"), expected)
        if right and scheme.lower() == "bearer":
            return
        detail = f"Expected the header Authorization: Bearer TOKEN, with the server's {TOKEN}."
        challenge = [("WWW-Authenticate", 'Bearer realm="feedbus"')]
        raise problem(HTTPStatus.UNAUTHORIZED, detail, headers=challenge)


def guard_of(listener: socket.socket, address: Address, environ: Mapping[str, str]) -> Guard:
    """Return the guard that checks the requests to a server.

    Args:
        listener: the listening socket of the server.
        address: the address, and the names of its options for the error.
        environ: the environment variables, which can contain the token FEEDBUS_API_TOKEN.

    Raises:
        UsageError: other machines can reach the address, and no token is set.

    """
    token, loopback = token_from(environ), is_loopback(listener)
    if token is None and not loopback:
        msg = (
            f"{address.host_option} '{address.host}' can be reached from other machines: set"
            f" {TOKEN} to a secret that requests must send, or listen on 127.0.0.1"
        )
        raise UsageError(msg)
    return Guard(token, loopback)


def check_host(header: str | None) -> None:
    """Refuse a request whose header Host names another machine.

    A web page can let a name of its own domain resolve to 127.0.0.1 (DNS rebinding). Then the
    browser of a user would send the requests of this page to this server, with this name as Host.

    Args:
        header: the value of the header; None if the request has none.

    Raises:
        bottle.HTTPResponse: with status 421, because the header names another machine.

    """
    if header is None or USUAL_HOST.fullmatch(header):
        return
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        name = ""
    if name == "localhost" or name.endswith(".localhost"):
        return
    try:
        if ipaddress.ip_address(name).is_loopback:
            return
    except ValueError:
        pass
    detail = (
        "This server has no API token, so it answers only requests for localhost, not for"
        f" {header};"
        f" set {TOKEN} to allow other hosts."
    )
    raise problem(HTTPStatus.MISDIRECTED_REQUEST, detail)
