"""Serve a WSGI application on waitress; when told to stop, finish what is in hand first."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask

from feedbus.errors import FeedbusError
from web.bodies import LIMIT_BYTES, too_large
from web.problems import MEDIA_TYPE, document, encode

BACKLOG = 1024
THREADS = 16  # most of them wait for the database while one works
MOST_CONNECTIONS = 1000
LOOP_SECONDS = 5.0
LINGER_SECONDS = 3.0
FINISH_SECONDS = 4.0  # less than the time that a supervisor gives


class CannotListen(FeedbusError):  # noqa: N818 -- a state of the world, as Outage is
    """An address cannot be bound."""


class ProblemTask(ErrorTask):
    """Answers what waitress itself refuses: a bad request line, headers or body too large."""

    def execute(self) -> None:
        """Write the problem, and let the client finish sending so that it can read it."""
        error = self.request.error
        status = HTTPStatus(error.code)
        detail = f"{error.body or error.reason}."
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = too_large()
        body = encode(document(status, detail))
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.extend(
            [("Content-Type", MEDIA_TYPE), ("X-Content-Type-Options", "nosniff")]
        )
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.lingers = True
        self.write(body)


class WholeTask(WSGITask):
    """Sends an answer's headers and body at once, where waitress makes two packets of them."""

    wrote_header: bool = False

    def write(self, data: bytes) -> None:
        """Write data, with the headers before the first of it."""
        if self.wrote_header or not self.has_body or self.content_length != len(data):
            super().write(data)
            return
        self.channel.write_soon(self.build_response_header() + data)
        self.wrote_header = True
        self.content_bytes_written = len(data)


class LingeringChannel(HTTPChannel):
    """A connection that after a refusal discards what is still sent, for a few seconds.

    Closing at once would reset the connection, and the client would see that reset instead of
    the answer.
    """

    error_task_class = ProblemTask
    task_class = WholeTask
    close_when_flushed: bool = False
    will_close: bool = False
    lingers = False
    linger_until: float

    def handle_write(self) -> None:
        """Send what waits; after a refusal end only our own direction."""
        if not (self.lingers and self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.total_outbufs_len or self.will_close:
            return
        self.close_when_flushed = False
        self.linger_until = time.monotonic() + LINGER_SECONDS
        self.readable = self._readable_for_a_while  # of this one alone: all are asked at each turn
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.will_close = True

    def _readable_for_a_while(self) -> bool:
        """Say whether to read; called at each turn of the loop, so lingering ends here."""
        if time.monotonic() > self.linger_until:
            self.will_close = True
        return super().readable()  # type: ignore[no-any-return]  # it is a bool

    def received(self, data: bytes) -> bool:
        """Parse what came, or discard it after a refusal."""
        if self.lingers:
            return False
        return bool(super().received(data))


class Server:
    """A waitress server that stop() ends from a signal handler or another thread."""

    def __init__(
        self, application: Callable[..., Any], listener: socket.socket, *, threads: int = THREADS
    ) -> None:
        """Serve on a bound socket; listening starts at once, answering with run()."""
        self._stopping = False
        self._map: dict[int, Any] = {}
        self._waitress = waitress.create_server(
            application,
            map=self._map,
            sockets=[listener],
            threads=threads,
            backlog=BACKLOG,
            connection_limit=MOST_CONNECTIONS,
            max_request_body_size=LIMIT_BYTES + 1,
            ident="",
            clear_untrusted_proxy_headers=True,
        )
        self._waitress.channel_class = LingeringChannel

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._waitress.effective_port)

    def run(self) -> None:
        """Answer requests until stop(), then finish those in hand and close everything."""
        try:
            while not self._stopping:
                self._turn(LOOP_SECONDS)
        finally:
            self._finish()

    def stop(self) -> None:
        """Make run() return."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has seen that already, and closed everything
            self._waitress.pull_trigger()

    def _turn(self, timeout_seconds: float) -> None:
        wasyncore.loop(timeout=timeout_seconds, use_poll=True, map=self._map, count=1)

    def _finish(self) -> None:
        self._turn(0)  # whoever has connected by now is still served
        wasyncore.dispatcher.close(self._waitress)
        deadline = time.monotonic() + FINISH_SECONDS
        while self._busy() and time.monotonic() < deadline:
            self._turn(0.05)
        self._waitress.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def _busy(self) -> bool:
        channels = list(self._waitress.active_channels.values())
        return any(
            channel.requests or channel.request or channel.total_outbufs_len for channel in channels
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to host and port, 0 for any free port.

    Raises:
        CannotListen: it cannot be bound, with the reason and what to do.

    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError, OverflowError) as error:
        msg = f"--host {host} --port {port}: no such address: {error}"
        raise CannotListen(msg) from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        msg = (
            f"cannot listen on {host} port {port}: {error.strerror}; "
            "stop what listens there, or choose another with --port (0 for any free one)"
        )
        raise CannotListen(msg) from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Say whether a bound socket can be reached from this machine alone."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
