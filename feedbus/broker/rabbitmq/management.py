"""Read RabbitMQ's management API; AMQP has no method that lists exchanges, queues and bindings."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from base64 import b64encode
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, Self
from urllib.parse import quote

from feedbus.broker.rabbitmq.tls import make_context
from feedbus.errors import FeedbusError, Outage, UsageError
from feedbus.process.slow_server_notices import notices
from feedbus.urls import BrokerUrl, ManagementUrl, management_of

TIMEOUT_SECONDS = 10.0  # the time limit of each wait for data
DEADLINE_SECONDS = 60.0  # the time limit of a whole answer
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # ten thousand queues are listed in less than 40 MB
READ_BYTES = 65_536
SET_ADDRESS = "set [broker] management to the address of the management API"
TRY_LATER = (
    "try again when RabbitMQ has less load, or set [broker] management to the API of another node"
)

ListedKind = Literal["exchanges", "queues", "bindings"]


@dataclass(frozen=True, slots=True)
class ManagementApi:
    """The management API of one node, for one virtual host.

    Attributes:
        url: the address of the API, with the user and the password.
        virtual_host: the virtual host whose objects are listed.
    """

    url: ManagementUrl
    virtual_host: str

    @classmethod
    def of(cls, url: BrokerUrl, management_url: ManagementUrl | None) -> list[Self]:
        """Return the management APIs of a broker, one for each of its nodes.

        Args:
            url: the URL of the broker.
            management_url: the configured URL of the API, which is used for each node; None for the
                default port on each node.
        """
        pairs = management_of(url, management_url)
        return [cls(api_url, node.virtual_host) for api_url, node in pairs]

    def list(self, kind: ListedKind) -> list[dict[str, Any]]:
        """Return the API's descriptions of all objects of one kind in the virtual host.

        Args:
            kind: "exchanges", "queues" or "bindings".

        Raises:
            UsageError: the API does not answer, or refuses the request; the error says what to do.
        """
        try:
            connection = _connection(self.url)
        except Outage as error:
            raise self._failure(str(error)) from None
        try:
            self._connect(connection)
            status, body = self._get(connection, kind)
        finally:
            connection.close()
        if status != HTTPStatus.OK:
            raise self._failure(self._refusal(status, kind))
        objects: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            objects = json.loads(body)
        if not (isinstance(objects, list) and all(isinstance(one, dict) for one in objects)):
            hint = f"its answer is not a list of {kind}; {SET_ADDRESS}"
            raise self._failure(hint)
        return objects

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            hint = (
                f"its TLS certificate cannot be verified: {error.verify_message}; add"
                " ?ssl_ca_certs=FILE (the certificate of its authority) or ssl_server_name=NAME"
                " (the name in its certificate)"
            )
            raise self._failure(hint) from None
        except (OSError, ValueError) as error:  # ValueError: a host name that DNS cannot have
            hint = (
                f"{error}; enable the plugin (rabbitmq-plugins enable"
                " rabbitmq_management), or set its address: [broker] management ="
                ' "http://HOST:15672"'
            )
            raise self._failure(hint) from None

    def _get(
        self, connection: http.client.HTTPConnection, kind: ListedKind
    ) -> tuple[int, bytearray]:
        """Send a request on an open connection; return the status and the body of the answer.

        Proxies and redirects are not used, because they could receive the password.
        """
        path = f"{quote(self.url.path)}/api/{kind}/{quote(self.virtual_host, safe='')}"
        token = b64encode(f"{self.url.user}:{self.url.password}".encode()).decode()
        deadline = time.monotonic() + DEADLINE_SECONDS
        try:
            connection.request("GET", path, headers={"Authorization": f"Basic {token}"})
            with connection.getresponse() as answer:
                return answer.status, self._read(answer, kind, deadline)
        except TimeoutError:
            hint = f"it has sent nothing for {TIMEOUT_SECONDS:.0f} s; {TRY_LATER}"
            raise self._failure(hint) from None
        except (OSError, http.client.IncompleteRead) as error:
            hint = f"the connection was lost ({error}); RabbitMQ's log may have the reason"
            raise self._failure(hint) from None
        except http.client.HTTPException:
            hint = f"its answer is not HTTP; {SET_ADDRESS}"
            raise self._failure(hint) from None

    def _read(
        self, answer: http.client.HTTPResponse, kind: ListedKind, deadline: float
    ) -> bytearray:
        body = bytearray()
        while part := answer.read(READ_BYTES):
            body += part
            if len(body) > MAX_ANSWER_BYTES:
                hint = (
                    f"the list of the {kind} in the virtual host '{self.virtual_host}' is larger"
                    f" than {MAX_ANSWER_BYTES:,} bytes; use a virtual host with fewer {kind}, or"
                    " set [broker] management if this is not the address of the management API"
                )
                raise self._failure(hint)
            if time.monotonic() > deadline:
                hint = f"its answer takes longer than {DEADLINE_SECONDS:.0f} s; {TRY_LATER}"
                raise self._failure(hint)
        if answer.length:  # read() does not report that the rest of the body is missing
            raise http.client.IncompleteRead(bytes(body), answer.length)
        return body

    def _refusal(self, status: int, kind: str) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            return (
                f"it refuses the user '{self.url.user}' with this password; set [broker] management"
                " to the URL with a user that has the tag 'monitoring' or 'management':"
                f" {self.url.scheme}://USER:PASSWORD@{str(self.url).partition('://')[2]}"
            )
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return (
                f"HTTP {status}: it redirects to another address, to which feedbus does not send"
                " the password; set [broker] management to the address that answers"
            )
        return (
            f"it answers HTTP {status} to the request for the {kind} of the virtual host"
            f" '{self.virtual_host}'; check the address and RabbitMQ's log"
        )

    def _failure(self, hint: str) -> UsageError:
        return UsageError(f"RabbitMQ's management API at {self.url} cannot be read: {hint}")


class _TlsConnection(http.client.HTTPSConnection):
    """A connection to a server whose certificate may contain another name than the URL."""

    def __init__(self, url: ManagementUrl, context: ssl.SSLContext, server_name: str) -> None:
        """Create a connection; `server_name` is the name that the certificate must contain."""
        super().__init__(url.host, url.port, timeout=TIMEOUT_SECONDS, context=context)
        self._verifying, self._server_name = context, server_name

    def connect(self) -> None:
        """Open the connection, and verify the server."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._verifying.wrap_socket(self.sock, server_hostname=self._server_name)


def _connection(url: ManagementUrl) -> http.client.HTTPConnection:
    if url.tls is None:
        return http.client.HTTPConnection(url.host, url.port, timeout=TIMEOUT_SECONDS)
    context = make_context(url.tls, str(url))
    return _TlsConnection(url, context, url.tls.server_name or url.host)


def listed(
    url: BrokerUrl, management_url: ManagementUrl | None, kind: ListedKind
) -> list[dict[str, Any]]:
    """Return the API's descriptions of all objects of one kind, from the first node that answers.

    Args:
        url: the URL of the broker.
        management_url: the URL of the API; None for the default port on each node of the broker.
        kind: "exchanges", "queues" or "bindings".

    Raises:
        UsageError: no API answers; the error says what to do.
    """
    *others, last = ManagementApi.of(url, management_url)
    # One API can take the time of the deadline, and of a last wait that begins just before the
    # deadline.
    seconds = (DEADLINE_SECONDS + TIMEOUT_SECONDS) * (len(others) + 1)
    what = "RabbitMQ's management API"
    with notices.during(f"waiting for {what} to list each {kind[:-1]}, at most {seconds:.0f} s"):
        for api in others:
            with contextlib.suppress(FeedbusError):
                return api.list(kind)
        return last.list(kind)
