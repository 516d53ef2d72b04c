"""Serve a WSGI application on waitress; a stop waits for running requests."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.task import ThreadedTaskDispatcher

from feedbus.errors import FeedbusError
from feedbus.operations.http_connections import (
    BODY_BYTES,
    MOST_CONNECTIONS,
    RESERVED_FILES,
    Listener,
)

BACKLOG = 1024  # how many connections the kernel keeps until the server accepts them
THREADS = 16  # the number of threads that answer requests; most of them wait for the database
HEADERS_BYTES = 16 * 1024  # the largest headers of a request; a slow client keeps them in memory
LOOP_SECONDS = 5.0  # the longest wait of the loop for an event, if no connection is open
OPEN_LOOP_SECONDS = 1.0  # how often the loop looks for overdue connections, if any are open
UNREAD_SECONDS = 60  # how long a client may read nothing of an answer
# How long a stop waits for requests. A supervisor kills a process only after a longer time.
FINISH_SECONDS = 4.0


class CannotListen(FeedbusError):  # noqa: N818 -- an outage is a state
    """The server cannot listen on an address, for example because another program uses it."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server, and the names of the options that set it, for errors.

    Attributes:
        host: the host name or IP address to listen on.
        port: the port; 0 means any free port.
        host_option: the name of the option with the host.
        port_option: the name of the option with the port.

    """

    host: str
    port: int
    host_option: str = "--host"
    port_option: str = "--port"


class Server:
    """A waitress server for one WSGI application, on one listening socket.

    The operations process makes one Server object, as soon as it can listen on its address.
    """

    def __init__(
        self, application: Callable[..., Any], listener: socket.socket, *, threads: int = THREADS
    ) -> None:
        """Create a server on a bound socket. Clients can connect now; run() answers their requests.

        Args:
            application: the WSGI application.
            listener: the socket.
            threads: how many requests are answered at the same time.

        """
        self._stopping = False
        self._map: dict[int, Any] = {}
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        self._waitress = Listener(
            application,
            self._map,
            _sock=listener,
            dispatcher=dispatcher,
            adj=Adjustments(
                threads=threads,
                backlog=BACKLOG,
                # Never reached: the listener closes connections above MOST_CONNECTIONS.
                connection_limit=MOST_CONNECTIONS + RESERVED_FILES // 2,
                cleanup_interval=1,
                channel_timeout=UNREAD_SECONDS,
                max_request_header_size=HEADERS_BYTES,
                max_request_body_size=BODY_BYTES + 1,  # waitress refuses bodies of this size, too
                ident="",
                clear_untrusted_proxy_headers=True,
            ),
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )

    @property
    def port(self) -> int:
        """The port on which the server listens, also if the socket was bound to port 0."""
        return int(self._waitress.effective_port)

    def run(self) -> None:
        """Answer requests until stop(), then finish running requests and close everything."""
        try:
            while not self._stopping:
                self._turn(OPEN_LOOP_SECONDS if self._waitress.active_channels else LOOP_SECONDS)
        finally:
            self._finish()

    def stop(self) -> None:
        """Make run() return soon; a signal handler or another thread can call the method."""
        self._stopping = True
        with contextlib.suppress(OSError):  # run() has already returned, and closed this socket
            self._waitress.pull_trigger()

    def _turn(self, timeout_seconds: float) -> None:
        """Run one iteration of the loop, which waits for an event for at most this time."""
        wasyncore.loop(timeout=timeout_seconds, use_poll=True, map=self._map, count=1)

    def _finish(self) -> None:
        """Accept no more connections, wait for the running requests, and close everything."""
        self._turn(0)  # the requests of clients that have connected are still answered
        wasyncore.dispatcher.close(self._waitress)
        deadline = time.monotonic() + FINISH_SECONDS
        while self._busy() and time.monotonic() < deadline:
            self._turn(0.05)
        self._waitress.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def _busy(self) -> bool:
        """Whether a request is received or answered, or an answer is not sent completely."""
        channels = list(self._waitress.active_channels.values())
        return any(
            channel.requests or channel.request or channel.total_outbufs_len for channel in channels
        )


def bind(address: Address) -> socket.socket:
    """Return a socket that listens on an address; port 0 means any free port.

    Args:
        address: the address, and the names of its options for the error.

    Raises:
        CannotListen: this process cannot listen on the address. The error says why and what to do.

    """
    host, port = address.host, address.port
    try:
        family, kind, protocol, _, socket_address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError, OverflowError) as error:
        msg = f"{address.host_option} '{host}': cannot be resolved: {error}"
        raise CannotListen(msg) from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(socket_address)
        listener.listen(BACKLOG)  # two sockets may be bound to one port until one of them listens
    except OSError as error:
        listener.close()
        msg = (
            f"cannot listen on {host} port {port}: {error.strerror}; stop the program that listens"
            f" there, or choose another {address.port_option} (0 for any free one)"
        )
        raise CannotListen(msg) from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Return whether a bound socket has a loopback address, which only this machine can reach."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def url(host: str, port: int) -> str:
    """Return the URL of a server's root, such as "http://127.0.0.1:8700".

    Args:
        host: the host name or IP address; an IPv6 address gets brackets.
        port: the port.

    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
