"""A thread that sends the heartbeats of a connection while other code uses the connection."""

from __future__ import annotations

import select
import ssl
import struct
import threading
import weakref
from collections.abc import Callable
from typing import Any

BEATS_AN_INTERVAL = 4  # the broker closes a connection after two intervals without data
# A heartbeat: the type of the frame, the channel, the number of payload bytes, and the end byte.
FRAME = struct.pack(">BHIB", 8, 0, 0, 0xCE)


class BackgroundHeartbeats:
    """Sends the heartbeats of one connection from a thread, until the connection is closed.

    The constructor starts the thread. The object also lets only one thread at a time write to the
    socket.

    Args:
        transport: the transport of an open connection of py-amqp.
        interval_seconds: the heartbeat interval that the connection has agreed with the broker;
            four heartbeats are sent in each interval.
    """

    def __init__(self, transport: Any, interval_seconds: float) -> None:
        """Start the thread.

        The thread and the user of the connection write to the same socket. So this method replaces
        the transport's function that writes, and with TLS also the function that receives.

        Args:
            transport: the open transport of a py-amqp connection.
            interval_seconds: the interval that was agreed with the broker.

        """
        self._using_socket = threading.Lock()
        self._send: Callable[[bytes], None] = transport._write  # noqa: SLF001 -- py-amqp has no public name for it
        self._stop_requested = threading.Event()
        self._pause_seconds = interval_seconds / BEATS_AN_INTERVAL
        transport._write = self._write  # noqa: SLF001 -- as above
        if isinstance(transport.sock, ssl.SSLSocket):
            transport._quick_recv = self._guarded(transport.sock, transport._quick_recv)  # noqa: SLF001 -- as above
        thread = threading.Thread(
            target=self._run, args=(weakref.ref(transport),), name="heartbeats", daemon=True
        )
        thread.start()

    def stop(self) -> None:
        """Make the thread end, without waiting for its end.

        It is called when the connection is closed.
        """
        self._stop_requested.set()

    def _run(self, transport: weakref.ref[Any]) -> None:
        """Send heartbeats until stop(), an error, or the deletion of the transport."""
        while not self._stop_requested.wait(self._pause_seconds):
            if (open_transport := transport()) is None:
                return
            try:
                self._write(FRAME)
            # AttributeError: another thread closes the transport, which has no socket any more.
            except (OSError, ValueError, AttributeError):
                open_transport.connected = False  # the next use raises the error
                return
            del open_transport

    def _write(self, data: bytes) -> None:
        """Send whole frames; a heartbeat cannot get between the bytes of another frame."""
        with self._using_socket:
            self._send(data)

    def _guarded(
        self, sock: ssl.SSLSocket, receive: Callable[[int], bytes]
    ) -> Callable[[int], bytes]:
        """Return a function that receives bytes, but not while the thread writes.

        OpenSSL does not allow two threads to use a connection at the same time. The returned
        function waits for data before it takes the lock, so the thread can write during the wait.

        Args:
            sock: the socket of the connection.
            receive: py-amqp's function that receives at most a number of bytes.

        """

        def receive_alone(count: int) -> bytes:
            timeout = sock.gettimeout()
            if not sock.pending():
                arrivals = select.poll()
                arrivals.register(sock, select.POLLIN)
                if not arrivals.poll(None if timeout is None else timeout * 1000):
                    msg = "timed out: no data arrived from RabbitMQ"
                    raise TimeoutError(msg)
            with self._using_socket:
                return receive(count)

        return receive_alone
