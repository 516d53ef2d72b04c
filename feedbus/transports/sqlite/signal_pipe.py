"""A pipe that ends a wait when a signal arrives, even just before the wait begins.

Python continues an interrupted wait after the signal handler has returned. If the handler ran just
before the wait, the wait does not notice the signal. So each signal writes to a pipe, and a wait
ends when the pipe can be read. Python allows one such pipe in a process, and only the main thread
can use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading


class SignalPipe:
    """Ends the waits of the main thread at a signal.

    All connections of a process share one SignalPipe object.
    """

    def __init__(self) -> None:
        """Create the object; the pipe is created when it is needed."""
        self.reader = self._writer = self._foreign = -1
        self._users = 0
        self._counting = threading.Lock()

    def join(self) -> None:
        """Count one more user of the pipe; each connection that waits for events is a user."""
        with self._counting:
            self._users += 1

    def listen(self) -> int:
        """Make signals write to the pipe; return its reading end, or -1 outside the main thread.

        A connection calls it before each wait.
        """
        if threading.current_thread() is not threading.main_thread():
            return -1
        if self.reader < 0:
            self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if before not in {-1, self._writer}:
            # An event loop has set its own descriptor before. read_signals() writes the signals to
            # this descriptor, too.
            self._foreign = before
        return self.reader

    def read_signals(self) -> None:
        """Read the bytes that signals wrote, so that they do not end the next wait.

        An event loop of the process may have called signal.set_wakeup_fd() before listen() did.
        Then the bytes are also written to the event loop's descriptor.
        """
        with contextlib.suppress(OSError):
            heard = os.read(self.reader, 4096)
            if self._foreign >= 0:
                os.write(self._foreign, heard)

    def leave(self) -> None:
        """Remove one user.

        When the last user is removed, the pipe is closed, and signals write again to the descriptor
        that was set before listen(). Only the main thread can do this. In another thread, the pipe
        stays open.
        """
        with self._counting:
            self._users -= 1
            users = self._users
        if users or self.reader < 0:
            return
        # Python allows only the main thread to restore the earlier descriptor.
        if threading.current_thread() is threading.main_thread():
            current = signal.set_wakeup_fd(self._foreign, warn_on_full_buffer=False)
            if current != self._writer:  # set by other code after listen(), so it stays
                signal.set_wakeup_fd(current, warn_on_full_buffer=False)
            self.drop()

    def drop(self) -> None:
        """Close this process's ends of the pipe; also called in a forked child."""
        for end in (self.reader, self._writer):
            if end >= 0:
                os.close(end)
        self.reader = self._writer = self._foreign = -1
        self._users = 0
        self._counting = threading.Lock()  # a forked child may have copied a lock that is held


pipe = SignalPipe()


def _drop_in_child() -> None:
    # The child's signals must not end its parent's waits.
    if pipe.reader >= 0:
        signal.set_wakeup_fd(-1)
    pipe.drop()


os.register_at_fork(after_in_child=_drop_in_child)
