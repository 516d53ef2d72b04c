"""Copy the lines of all logs to stdout, each after the name of its consumer, for `up --logs`."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from feedbus.printable import printable
from feedbus.units import counted

# If poll() reports a pipe as writable, a write of up to PIPE_BUF bytes does not block. Setting
# O_NONBLOCK instead would change the terminal of the shell, too.
PIECE_BYTES = 4096
PATIENCE_MILLISECONDS = 500  # the longest wait for a reader that does not read
TAB = "    "  # replaces a tab character in a line


class LogCopies:
    """Writes the lines of all logs to one descriptor, for `feedbus up --logs`.

    A slow reader delays the supervisor only briefly: if the reader does not read, the supervisor
    waits once for half a second. After that, it drops and counts lines until there is room again.
    Then it writes a line with their number. The log files contain all lines.
    """

    def __init__(self, width: int, descriptor: int = 1) -> None:
        """Create the object for a descriptor.

        Args:
            width: the width of the column of names, in characters; 0 for lines without names.
            descriptor: the descriptor to which the lines are written.
        """
        self.dropped_lines = 0
        self._width = width
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._is_blocked = False
        self._within_line = False  # only a part of a line is written so far

    def of(self, name: str) -> Callable[[bytes], None]:
        """Return a function that copies lines of one consumer or process to the descriptor.

        The function takes whole lines as bytes, and writes each after the name.

        Args:
            name: the name of the consumer or process.

        """
        prefix = f"{name:<{self._width}}  " if self._width else ""

        def copy(lines: bytes) -> None:
            for line in lines.decode(errors="backslashreplace").removesuffix("\n").split("\n"):
                self._write_or_count(prefix + printable(line.replace("\t", TAB)))

        return copy

    def _write_or_count(self, line: str) -> None:
        if self.dropped_lines:
            dropped = f"({counted(self.dropped_lines, 'line')} dropped: stdout was not read)"
            if not self._write(dropped):
                self.dropped_lines += 1
                return
            self.dropped_lines = 0
        if not self._write(line):
            self.dropped_lines += 1

    def _write(self, line: str) -> bool:
        """Write a line, and return whether the whole line was written."""
        text = f"{line}\n".encode()
        if self._within_line:
            text = b"\n" + text
        for start in range(0, len(text), PIECE_BYTES):
            if not self._await_room():
                return False
            try:
                os.write(self._descriptor, text[start : start + PIECE_BYTES])
            except OSError:  # the terminal is gone, or the pipe is closed
                return False
            self._within_line = start + PIECE_BYTES < len(text)
        return True

    def _await_room(self) -> bool:
        """Wait a short time until the output has room; return whether it has.

        If the output had no room at the last call, do not wait.
        """
        ready = bool(self._poll.poll(0 if self._is_blocked else PATIENCE_MILLISECONDS))
        self._is_blocked = not ready
        return ready
