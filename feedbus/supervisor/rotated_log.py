"""The log file of a watcher, with stdout and stderr of its processes, rotated by size."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from feedbus.errors import FeedbusError
from feedbus.logs import TEXT, Event, log_line
from feedbus.process.private_files import open_private
from feedbus.units import counted

LONGEST_LINE_BYTES = 65_536  # a longer line is written in pieces


class RotatedLog:
    """A circus stream that appends whole lines to the private log file of one watcher.

    The file is rotated by size, and some older files are kept. The output of a process arrives in
    pieces. The beginning of a line is kept in memory until the end of the line has arrived. So
    lines of several processes are not mixed, and the file is rotated between two lines.

    A file that was moved or deleted is created again. If the disk is full, lines are dropped and
    counted. When there is room again, the event `lines_dropped` with their number is written.
    """

    def __init__(  # noqa: PLR0913 -- circus passes them by name
        self,
        filename: str,
        max_bytes: int,
        backup_count: int,
        *,
        consumer: str = "",
        log_format: str = TEXT,
        descriptors: Sequence[int] = (),
        copy: Callable[[bytes], None] | None = None,
    ) -> None:
        """Create the stream of a log file.

        Args:
            filename: the file.
            max_bytes: the largest size; the file is rotated before it becomes larger.
            backup_count: how many older files are kept.
            consumer: the name of the consumer, for the lines that the supervisor itself writes.
            log_format: the format of the lines of the supervisor: "text" or "json".
            descriptors: descriptors of this process, such as its stdout, that are redirected to the
                file.
            copy: called with the lines of each write, also with lines that cannot be written to the
                disk.

        """
        self.path = Path(filename)
        self.max_bytes = max_bytes
        self.backup_count = backup_count
        self.dropped_lines = 0
        self._consumer = consumer
        self._log_format = log_format
        self._descriptors = descriptors
        self._copy = copy
        self._handle: int | None = None
        # Maps (process id, "stdout" or "stderr") to the beginning of a line.
        self._begun: dict[object, bytes] = {}

    def __call__(self, received: dict[str, Any]) -> None:
        """Append the output of a process, up to the end of its last whole line.

        Args:
            received: the output ("data"), with the process id ("pid") and the "name" of the stream.

        """
        source = (received.get("pid"), received.get("name"))
        text = self._begun.pop(source, b"") + received["data"]
        end = text.rfind(b"\n") + 1
        if len(text) - end > LONGEST_LINE_BYTES:
            text, end = text + b"\n", len(text) + 1
        if text[end:]:
            self._begun[source] = text[end:]
        if end:
            self._append(text[:end])

    def write_event(self, level: int, name: str, message: str, **fields: Any) -> None:
        """Append an event of the supervisor about the consumer to the log file.

        Args:
            level: a level of the module logging.
            name: the name of the event, one of feedbus.logs.catalogue.EVENTS.
            message: a sentence.
            fields: values to search for.

        """
        self({"data": self._event_line(level, name, message, **fields)})

    def end(self, pid: int) -> None:
        """Write the unfinished last line of a process that has ended, which is kept in memory.

        Args:
            pid: the process id.

        """
        for source in [one for one in self._begun if isinstance(one, tuple) and one[0] == pid]:
            self._append(self._begun.pop(source) + b"\n")

    def open(self) -> None:
        """Open the file if it is not open or was moved.

        If the file cannot be opened, it stays closed, and the next write tries again.
        """
        if self._handle is not None and self._moved(self._handle):
            self._close()
        if self._handle is None:
            with contextlib.suppress(OSError, FeedbusError):
                self._handle = open_private(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                for descriptor in self._descriptors:
                    os.dup2(self._handle, descriptor)

    def close(self) -> None:
        """Write unfinished lines, which are kept in memory; close the file until the next write."""
        for source in list(self._begun):
            self._append(self._begun.pop(source) + b"\n")
        self._close()

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _moved(self, handle: int) -> bool:
        try:
            return not os.path.samestat(os.fstat(handle), self.path.lstat())
        except OSError:
            return True

    def _append(self, lines: bytes) -> None:
        """Write whole lines; drop and count the lines for which there is no space."""
        if self._copy is not None:
            self._copy(lines)
        if self.dropped_lines:
            text = f"dropped {counted(self.dropped_lines, 'line')} of this log: the disk was full"
            line = self._event_line(
                logging.WARNING, "lines_dropped", text, lines=self.dropped_lines
            )
            if not self._write(line):
                self.dropped_lines += lines.count(b"\n")
                return
            self.dropped_lines = 0
        if not self._write(lines):
            self.dropped_lines += lines.count(b"\n")

    def _event_line(self, level: int, name: str, message: str, **fields: Any) -> bytes:
        event = Event(name, message, {"consumer": self._consumer, **fields})
        return log_line(self._log_format, level, event).encode() + b"\n"

    def _write(self, lines: bytes) -> bool:
        """Write all lines or none; return whether they were written."""
        self.open()
        if self._handle is None:
            return False
        try:
            size = os.fstat(self._handle).st_size
            if size and size + len(lines) > self.max_bytes:
                self._rotate()
                size = 0
            if self._handle is None:
                return False
            if os.write(self._handle, lines) < len(lines):
                os.ftruncate(self._handle, size)
                return False
        except OSError:
            return False
        return True

    def _rotate(self) -> None:
        self._close()
        for number in range(self.backup_count, 0, -1):
            newer = f"{self.path}.{number - 1}" if number > 1 else str(self.path)
            if os.path.lexists(newer):
                os.replace(newer, f"{self.path}.{number}")  # noqa: PTH105 -- a numbered name
        self.open()
