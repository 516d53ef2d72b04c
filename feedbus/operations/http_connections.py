"""Connections of HTTP clients: their number and the time for sending a request are limited."""

from __future__ import annotations

import resource
import socket
import time
from http import HTTPStatus
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, WSGITask

from feedbus.logs import EventLog
from feedbus.operations.responses import PROBLEM, problem_body

events = EventLog(__name__)

BODY_BYTES = 64 * 1024  # the largest body of a request
MOST_CONNECTIONS = 1000  # the largest number of open connections
RESERVED_FILES = 200  # files for the database, the broker, logs and connections being closed
FEWEST_CONNECTIONS = 50  # this many may be open, even if the limit of open files is low
ACCEPTED_AT_ONCE = 64  # connections that are accepted before open ones are served again
# How long a client may take to send the headers of a request. For the first request, this time
# begins when the connection is opened. For a later request, this time begins with the first byte of
# the request.
HEADERS_SECONDS = 10.0
REQUEST_SECONDS = 30.0  # the same for the headers and the body together
IDLE_SECONDS = 60.0  # the longest time between an answer and the next request
LINGER_SECONDS = 3.0  # the time after a refusal in which received data is discarded


class ProblemTask(ErrorTask):
    """waitress's task that answers a request which waitress refuses, such as a too large body."""

    def execute(self) -> None:
        """Send the error as a problem document, although the client may still send its request.

        The channel then discards the rest of the request, so that the client can read the error.
        """
        error = self.request.error
        status = HTTPStatus(error.code)
        detail = f"{error.body or error.reason}."
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            detail = too_large()
        body = problem_body(status, detail)
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.extend(
            [("Content-Type", PROBLEM), ("X-Content-Type-Options", "nosniff")]
        )
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.lingers = True
        self.write(body)


class WholeTask(WSGITask):
    """waitress's task that answers a request; it sends the headers together with the body.

    waitress itself sends two packets.
    """

    wrote_header: bool = False

    def write(self, data: bytes) -> None:
        """Write a part of the body. If it is the whole body, the headers are sent with it.

        waitress calls the method for each part of the answer.

        Args:
            data: the part of the body.

        """
        if self.wrote_header or not self.has_body or self.content_length != len(data):
            super().write(data)
            return
        self.channel.write_soon(self.build_response_header() + data)
        self.wrote_header = True
        self.content_bytes_written = len(data)


class Channel(HTTPChannel):
    """One connection of an HTTP client, with time limits for requests.

    After a refusal (the answer to a request that waitress refuses), the channel discards received
    data for a few seconds. An immediate close would reset the connection, and the client would get
    the reset instead of the answer. waitress makes one Channel object for each connection.

    Attributes:
        waiting_since: the monotonic time, in seconds, since which the channel waits for the current
            or the next request.
        served: whether a request was answered.
        lingers: whether a request was refused.
        linger_until: the monotonic time, in seconds, until which received data is discarded.

    """

    error_task_class = ProblemTask
    task_class = WholeTask
    close_when_flushed: bool = False
    will_close: bool = False
    lingers = False
    linger_until: float
    request: HTTPRequestParser | None = None
    total_outbufs_len = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Create the channel with waitress's arguments; the first request's time limit begins."""
        self.waiting_since = time.monotonic()
        self.served = False
        super().__init__(*arguments, **options)

    def is_overdue(self, now: float) -> bool:
        """Whether the client takes too long to send its first or its next request.

        The listener calls the method once a second, and closes overdue connections.

        Args:
            now: the time now, in seconds of the monotonic clock.

        """
        if self.requests or self.total_outbufs_len:
            return False
        if self.request is None:
            longest = IDLE_SECONDS if self.served else HEADERS_SECONDS
        else:
            longest = REQUEST_SECONDS if self.request.headers_finished else HEADERS_SECONDS
        return now - self.waiting_since > longest

    def worth(self) -> tuple[bool, bool, float]:
        """Return a sort key; above the limit, connections with the lowest keys are closed first.

        There are three kinds of connections, which are closed in this order:

        - The client has not sent its first request, or has sent only a part of a request.
        - The last request was answered, and the client has not begun the next one.
        - The client has not read the whole answer.

        Of one kind, the connection that has waited longest for its request is closed first.
        """
        kept_alive = self.served and self.request is None
        return bool(self.total_outbufs_len), kept_alive, self.waiting_since

    def service(self) -> None:
        """Answer a request; then the time limit of the next request begins. waitress calls it."""
        super().service()
        self.served = True
        self.waiting_since = time.monotonic()

    def handle_write(self) -> None:
        """Send the waiting data; after a refusal, close only the sending direction.

        waitress's loop calls the method when the client can receive data.
        """
        if not (self.lingers and self.close_when_flushed):
            super().handle_write()
            return
        self._flush_exception(self._flush_some)
        if self.total_outbufs_len or self.will_close:
            return
        self.close_when_flushed = False
        self.linger_until = time.monotonic() + LINGER_SECONDS
        # The loop calls readable() of every connection in each iteration.
        self.readable = self._check_linger_time
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.will_close = True

    def _check_linger_time(self) -> bool:
        """Return whether waitress's loop reads from the connection; close it after `linger_until`.

        After a refusal, this method replaces readable(), which the loop calls in each iteration.
        """
        if time.monotonic() > self.linger_until:
            self.will_close = True
        return super().readable()  # type: ignore[no-any-return]  # it is a bool

    def received(self, data: bytes) -> bool:
        """Parse received data, or discard it after a refusal; waitress calls the method.

        Args:
            data: the bytes that the client has sent.

        Returns:
            Whether the data was parsed.

        """
        if self.lingers:
            return False
        earlier = self.request
        received = bool(super().received(data))
        # The data has begun a later request of this connection.
        if self.served and self.request is not None and self.request is not earlier:
            self.waiting_since = time.monotonic()
        return received


class Listener(TcpWSGIServer):
    """Accepts every connection to the server, and closes those that are overdue or too many.

    Each server has one Listener object. waitress itself stops accepting connections at its limit.
    Then clients that send nothing could block all others.
    """

    channel_class = Channel
    active_channels: dict[int, Channel]
    # How many connections were closed since the last log line because too many were open.
    surplus = 0

    def handle_accept(self) -> None:
        """Accept the waiting connections, then close others if there are too many.

        waitress's loop calls the method when a client connects.
        """
        for _ in range(ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) == before:
                break
        self._make_room()

    def maintenance(self, now: float) -> None:
        """Close overdue connections; waitress calls this once a second.

        Args:
            now: waitress's time now, in seconds since 1970.

        """
        super().maintenance(now)
        overdue = [one for one in self._open() if one.is_overdue(time.monotonic())]
        close(overdue)
        surplus, self.surplus = self.surplus, 0
        if overdue or surplus:
            events.info(
                "connections_closed",
                "HTTP connections were closed, because their requests were too slow or there were"
                " too many connections",
                slow=len(overdue),
                too_many=surplus,
            )

    def _make_room(self) -> None:
        """Close connections above the limit, except those whose request is being answered."""
        channels = self._open()
        excess = len(channels) - connection_limit()
        if excess > 0:
            without_request = [one for one in channels if not one.requests]
            surplus = sorted(without_request, key=Channel.worth)[:excess]
            close(surplus)
            self.surplus += len(surplus)

    def _open(self) -> list[Channel]:
        """Return the connections that the loop will not close in its next iteration."""
        return [one for one in self.active_channels.values() if not one.will_close]


def too_large() -> str:
    """Return the detail of the answer 413 to a body that is too large, as text for the client."""
    return f"Expected a body of at most {BODY_BYTES} bytes."


def close(channels: list[Channel]) -> None:
    """Let waitress's loop close connections in its next iteration.

    An immediate close would free the descriptor of a connection. A new connection could get the
    same descriptor, while the loop still has events of the old connection.

    Args:
        channels: the overdue or surplus connections.

    """
    for channel in channels:
        channel.will_close = True


def connection_limit() -> int:
    """Return how many connections may be open; it depends on the process's limit of open files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, files - RESERVED_FILES))
