"""A TCP proxy that can cut connections, or keep them open and drop their bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self


class SilentProxy:
    """Forwards connections to a port of loopback until swallow() is called."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._passing = threading.Event()
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        """Forward nothing more on the connections of now; later ones pass."""
        self._passing.set()
        self._passing = threading.Event()

    def cut(self) -> None:
        """Close the connections of now; later ones pass."""
        sockets, self._sockets = self._sockets, []
        _close(sockets)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target_port))
                self.accepted += 1
                self._sockets += [near, far]
                silent = self._passing
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(source, sink, silent), daemon=True
                    ).start()

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket, silent: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65536):
                if not silent.is_set():
                    sink.sendall(received)
            if not silent.is_set():
                sink.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _close([self._listener, *self._sockets])


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
