"""Read the log files of processes: their last entries, and new ones as they are written."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Self

LEVELS = {
    name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
}
# Matches the beginning of an entry in text format, or in JSON.
BEGINNING = re.compile(
    r"""(?:\{"time":\s*")?(?P<time>\d{4}-\d\d-\d\dT[\d:.]+Z)(?:",\s*"level":\s*")?\s*"""
    rf"(?P<level>{'|'.join(LEVELS)})\b"
)
FIRST_BYTES = 65_536  # how much of the end of a file is read first, to find the last entries


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An entry of a log: one line with a time and a level, and the indented lines that follow it.

    Attributes:
        name: the name of the consumer or process.
        time: the time of the entry as text, by which entries are sorted. Output that the process
            printed without a time has the time of the entry before it.
        level: the level as a number of the module logging; None for output without a level.
        lines: the lines of the entry.

    """

    name: str
    time: str
    level: int | None
    lines: tuple[str, ...]

    @property
    def is_json(self) -> bool:
        """Whether the entry is a JSON object, as feedbus writes it."""
        return self.level is not None and self.lines[0].startswith("{")

    def reaches(self, least_level: int) -> bool:
        """Whether the entry has at least a level; output without a level always does.

        Args:
            least_level: a level of the module logging.

        """
        return self.level is None or self.level >= least_level


def entries(text: str, before: LogEntry) -> Iterator[LogEntry]:
    """Yield the entries in a text.

    Indented lines at the beginning of the text are the rest of the entry before the text. They are
    yielded as an entry with the time and the level of that entry.

    Args:
        text: whole lines of a log file.
        before: the entry before the text.

    """
    current = replace(before, lines=())
    for line in text.splitlines():
        if line.startswith("  "):
            current = replace(current, lines=(*current.lines, line))
            continue
        if current.lines:
            yield current
        found = BEGINNING.match(line)
        if found:
            current = LogEntry(before.name, found["time"], LEVELS[found["level"]], (line,))
        else:
            current = LogEntry(before.name, current.time, None, (line,))
    if current.lines:
        yield current


class LogFile:
    """The log file of one process, with its older files, and the position up to which it was read.

    `feedbus logs` has one LogFile object for each shown process. The supervisor appends whole
    lines. It renames a file that is full to NAME.log.1, and creates a new one.
    """

    def __init__(self, name: str, path: Path) -> None:
        """Create the object; nothing is read yet.

        Args:
            name: the name of the consumer or process.
            path: the file, which need not exist.

        """
        self.path = path
        self._name = name
        self._file: BinaryIO | None = None
        self._last = LogEntry(name, "", None, ())

    def last(self, count: int, least_level: int) -> list[LogEntry]:
        """Return the last entries with at least this level; new() continues after them.

        If the file has fewer such entries, the older files NAME.log.1 and so on are read, too.

        Args:
            count: the largest number of entries.
            least_level: a level of the module logging.

        """
        self._open()
        if self._file is None:
            return []
        found = self._from_end(self._file, count, least_level)
        number = 1
        while len(found) < count:
            try:
                with self.path.with_name(f"{self.path.name}.{number}").open("rb") as file:
                    found = self._from_end(file, count - len(found), least_level) + found
            except OSError:  # there is no older file
                break
            number += 1
        self._last = found[-1] if found else self._last
        return found[-count:] if count else []

    def new(self) -> list[LogEntry]:
        """Return the entries that were added since the last call of this method or of last().

        If a new file has replaced the file that was read, the new file is read from its beginning.
        """
        found = self._rest() if self._file is not None else []
        if self._replaced():
            self._open()
            found += self._rest()
        return found

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.close()
        try:
            self._file = self.path.open("rb")
        except OSError:  # the file does not exist yet, or is being replaced
            self._file = None

    def _replaced(self) -> bool:
        """Whether there is a file at the path that is not the open one."""
        try:
            now = self.path.stat()
        except OSError:
            return False
        return self._file is None or not os.path.samestat(now, os.fstat(self._file.fileno()))

    def _rest(self) -> list[LogEntry]:
        """Return the entries up to the last whole line; the next read begins after this line."""
        if self._file is None:
            return []
        start = self._file.tell()
        text = self._file.read()
        end = text.rfind(b"\n") + 1
        self._file.seek(start + end)
        found = list(entries(_decoded(text[:end]), self._last))
        self._last = found[-1] if found else self._last
        return found

    def _from_end(self, file: BinaryIO, count: int, least_level: int) -> list[LogEntry]:
        """Return the last entries of a file; the next read begins after its last whole line.

        Args:
            file: the file.
            count: the largest number of entries.
            least_level: a level of the module logging.

        """
        size = file.seek(0, os.SEEK_END)
        read = min(FIRST_BYTES, size)
        while True:
            file.seek(size - read)
            text = file.read(read)
            start = 0 if read == size else text.find(b"\n") + 1
            end = text.rfind(b"\n") + 1
            found = [
                each
                for each in entries(_decoded(text[start:end]), LogEntry(self._name, "", None, ()))
                if each.reaches(least_level)
            ]
            # One entry more than `count` is needed: the first entry may lack its first line.
            if read == size or len(found) > count:
                file.seek(size - read + end)
                return found[-count:] if count else []
            read = min(read * 4, size)


def in_order(found: Iterable[LogEntry]) -> list[LogEntry]:
    """Return the entries of several files, sorted by their times."""
    return sorted(found, key=lambda entry: entry.time)


def _decoded(text: bytes) -> str:
    return text.decode(errors="backslashreplace")
