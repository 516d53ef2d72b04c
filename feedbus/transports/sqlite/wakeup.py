"""Sockets by which the connections to one broker file wake each other.

Each connection that consumes has a datagram socket in the folder next to the broker file. The name
of the socket is the id of the connection. A connection that puts messages into a queue wakes the
connections that consume from the queue, after the commit. A socket's path can have at most
107 bytes. On Linux, a socket with a longer path is opened through a descriptor of the folder.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

from feedbus.transports.sqlite.backend_interfaces import NEWS

LONGEST_SOCKET_PATH = 107


class WakeUpSockets:
    """Wakes other connections of a broker file, and receives the wake-ups for one connection.

    Args:
        folder: the folder of the sockets, which is beside the broker file.
    """

    def __init__(self, folder: Path) -> None:
        """Create the object; from now on, it can wake other connections."""
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path = folder
        # 20 bytes are for the name of a socket, with the slash before it.
        self._long = len(os.fsencode(folder)) + 20 > LONGEST_SOCKET_PATH
        self._sender = self._make()
        self.receiver: socket.socket | None = None

    def _make(self) -> socket.socket:
        new_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        new_socket.setblocking(False)
        return new_socket

    def _address(self, connection_id: int) -> str:
        if self._long and sys.platform == "linux":
            return f"/proc/self/fd/{self._folder}/{connection_id}.sock"
        return str(self._path / f"{connection_id}.sock")

    def listen(self, connection_id: int) -> None:
        """Make the socket for this connection, so that it receives wake-ups under this id.

        If no socket can be made, `receiver` stays None, and waits check the file each second
        instead.
        """
        receiver = self._make()
        try:
            receiver.bind(self._address(connection_id))
        except OSError:
            receiver.close()
        else:
            self.receiver = receiver

    def wake(self, connection_ids: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake the connections with these ids; ignore closed and already woken connections.

        Args:
            connection_ids: the ids of the connections.
            meaning: NEWS if their queues may have messages; FAREWELL if another connection has
                ended.
        """
        for connection_id in connection_ids:
            with contextlib.suppress(OSError):
                self._sender.sendto(meaning, self._address(connection_id))

    def read(self) -> set[bytes]:
        """Read the wake-ups that have arrived, without waiting; return their different meanings.

        NEWS: the queues of this connection may have messages. FAREWELL: another connection has
        ended.
        """
        heard = set()
        with contextlib.suppress(OSError):
            while self.receiver is not None and (meaning := self.receiver.recv(16)):
                heard.add(meaning)
        return heard

    def close(self, connection_id: int | None) -> None:
        """Close the sockets and remove the file of this connection's socket.

        A second call does nothing.

        Args:
            connection_id: the id with which listen() was called; None if listen() was not called.
        """
        if self.receiver is not None:
            with contextlib.suppress(FileNotFoundError):
                (self._path / f"{connection_id}.sock").unlink()
        self.drop()

    def drop(self) -> None:
        """Close this process's copies of the sockets, but leave the file of the parent's socket.

        A forked child calls it.
        """
        if self._folder < 0:
            return
        self._sender.close()
        if self.receiver is not None:
            self.receiver.close()
            self.receiver = None
        os.close(self._folder)
        self._folder = -1
