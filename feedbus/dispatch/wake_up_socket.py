"""A socket with which other threads wake the consumer's thread while it waits for the broker."""

from __future__ import annotations

import socket
from contextlib import suppress


class Waker:
    """A socket that another thread can make readable.

    The consumer's thread waits until this socket or the connection to the broker is readable.
    RunningCalls, which calls handlers in threads or in the event loop, has one Waker object. When a
    call has ended, its thread wakes the consumer's thread.
    """

    def __init__(self) -> None:
        """Create the waker and open the socket."""
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._awake = False  # whether wake() was called since the last reset()

    def fileno(self) -> int:
        """Return the descriptor of the socket, which is readable after wake()."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Make the socket readable; any thread may call it. Do nothing if the waker is closed."""
        if not self._awake and self._writer.fileno() != -1:
            self._awake = True
            with suppress(BlockingIOError):
                self._writer.send(b"\0")

    def reset(self) -> None:
        """Make the socket unreadable.

        The caller looks for results of other threads after this call, not before: a result that is
        reported later makes the socket readable again.
        """
        with suppress(BlockingIOError):
            while self._reader.recv(1024):
                pass
        self._awake = False

    def close(self) -> None:
        """Close the socket, at the end of the run."""
        self._reader.close()
        self._writer.close()
