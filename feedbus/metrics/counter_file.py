"""Counters in a memory-mapped file; they keep their values after a kill -9.

A file is a sequence of segments of 64 KiB, so it can grow while the earlier segments stay mapped. A
segment has a magic number, the number of bytes in use, and entries: key length, count of numbers,
key, numbers. An entry has the numbers of one *series*: one metric with one set of label values.

Everything is aligned to 8 bytes. When an entry is added, the number of bytes in use is written
last. So the file is valid even if the writer is killed meanwhile.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from feedbus.logs import EventLog
from feedbus.process import file_locks
from feedbus.process.private_files import open_private

SUFFIX = ".counts"
UNREADABLE_SUFFIX = ".unreadable"
SEGMENT_BYTES = 64 * 1024
HEADER_BYTES = 16  # the magic number and the number of bytes in use, 8 bytes each
ENTRY = struct.Struct("=II")  # the key length and the count of numbers
MAGIC = int.from_bytes(b"feedbus\1", sys.byteorder)
MAX_FILES_PER_NAME = 100  # how many processes of the same name can count at the same time

events = EventLog("feedbus.metrics")


class Counts:
    """The counters of one process, in a file; each series of numbers has a key.

    The values stay in the file when the process ends. Without a file, all counters are only in
    memory. If the file cannot grow, for example on a full disk, new counters are only in memory.

    Attributes:
        lock: the lock that a thread holds while it changes numbers.

    """

    def __init__(self, descriptor: int | None = None) -> None:
        """Create the counters and map the file.

        Args:
            descriptor: an open file, locked for this writer alone; closed by close(). None to count
                only in memory.

        Raises:
            ValueError: the file is not a valid metric file.

        """
        self.lock = threading.Lock()
        self._descriptor = descriptor
        self._numbers: dict[str, memoryview[float]] = {}
        self._space = memoryview(b"")
        self._used = 0
        self._segments = 0
        if descriptor is None:
            return
        whole, rest = divmod(os.fstat(descriptor).st_size, SEGMENT_BYTES)
        for index in range(whole):
            self._take(self._map(index))
        self._segments = whole
        # At the end of the file, there can be a part of a segment, whose creation was interrupted.
        # It contains only zeros, so it has no entries, and _grow() creates the segment again.
        for _ in entries(memoryview(os.pread(descriptor, rest, whole * SEGMENT_BYTES))):
            msg = f"expected whole segments of {SEGMENT_BYTES} bytes, got {rest} bytes at the end"
            raise ValueError(msg)

    @classmethod
    def claim(cls, directory: Path, name: str) -> Counts:
        """Open the metric file of a process as its only writer, and return its counters.

        If the file is in use by another process, a file with an additional number is used. A
        damaged file is renamed: its values are lost, and the values of all other files are kept.

        Args:
            directory: the folder of the metric files.
            name: the name of the process, from which the name of the file is made.

        Raises:
            NotPrivate: the file is a link, or another user owns it.
            OSError: no file can be opened.

        """
        for number in range(MAX_FILES_PER_NAME):
            mark = f"~{number}" if number else ""
            path = directory / f"{quote(name, safe='')}{mark}{SUFFIX}"
            descriptor = _open_alone(path)
            if descriptor is None:
                continue
            try:
                return cls(descriptor)
            except ValueError as error:
                aside = path.with_name(path.name + UNREADABLE_SUFFIX)
                events.warning(
                    "metrics_restarted",
                    f"a metric file is damaged: {error}; it was renamed to {aside.name}, and the"
                    " counters of this process start again at 0",
                    file=path,
                )
                path.replace(aside)
                os.close(descriptor)
                descriptor = _open_alone(path)
                if descriptor is not None:
                    return cls(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        raise OSError(errno.EBUSY, "all metric files of this name are in use", str(directory))

    def numbers(self, key: str, length: int) -> memoryview[float]:
        """Return the numbers of a series; those of a new series are 0.

        A change of these numbers also changes the file. The caller must hold `lock` while it
        changes them, but not during this call.

        Args:
            key: the key of the series: the metric and the values of its labels, as JSON.
            length: how many numbers the series has.

        """
        with self.lock:
            known = self._numbers.get(key)
            if known is None or len(known) != length:
                known = self._numbers[key] = self._append(key.encode(), length)
            return known

    def read(self) -> dict[str, tuple[float, ...]]:
        """Return the current numbers of every series, by the key of the series."""
        with self.lock:
            return {key: tuple(numbers) for key, numbers in self._numbers.items()}

    def close(self) -> None:
        """Release the file when the process ends.

        The next process of the same name continues its counters.
        """
        if self._descriptor is not None:
            # The mapped segments still refer to the open file. So a close of the descriptor alone
            # would not release the lock of the file.
            file_locks.unlock(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, key: bytes, length: int) -> memoryview[float]:
        """Add a series to the file; return its numbers, which are 0.

        The file consists of segments of 64 KiB. If the series does not fit into the last segment, a
        segment is added.

        Args:
            key: the key of the series.
            length: how many numbers the series has.

        """
        start = self._used + ENTRY.size + _aligned(len(key))
        end = start + 8 * length
        if end > len(self._space):
            self._grow()
            start = self._used + ENTRY.size + _aligned(len(key))
            end = start + 8 * length
        ENTRY.pack_into(self._space, self._used, len(key), length)
        self._space[self._used + ENTRY.size : self._used + ENTRY.size + len(key)] = key
        self._used = end
        self._space[:HEADER_BYTES].cast("Q")[1] = end
        return self._space[start:end].cast("d")

    def _grow(self) -> None:
        """Add 64 KiB, a segment, to the file; if this is impossible, add a segment in memory."""
        space = memoryview(bytearray(SEGMENT_BYTES))
        if self._descriptor is not None:
            try:
                _allocate(self._descriptor, self._segments * SEGMENT_BYTES)
                space = self._map(self._segments)
                self._segments += 1
            except OSError as error:
                events.warning(
                    "metrics_in_memory",
                    "the metric file of this process cannot grow, so its new metrics are not"
                    " exported; free disk space and restart the process",
                    error=error,
                )
        self._take(space)

    def _take(self, space: memoryview) -> None:
        """Read the series of a segment; from now on, _append() adds new series to this segment.

        Args:
            space: the bytes of the segment, a part of the metric file with 64 KiB.

        """
        self._space = space
        self._used = HEADER_BYTES
        for key, start, end, _ in entries(space):
            self._numbers[key] = space[start:end].cast("d")
            self._used = end
        header = space[:HEADER_BYTES].cast("Q")
        header[0] = MAGIC
        header[1] = self._used

    def _map(self, index: int) -> memoryview:
        assert self._descriptor is not None  # noqa: S101 -- for the type checker
        offset = index * SEGMENT_BYTES
        return memoryview(mmap.mmap(self._descriptor, SEGMENT_BYTES, offset=offset))


def read_file(path: Path) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the key and the numbers of each series in a metric file.

    Its process may write the file meanwhile.

    Args:
        path: the metric file.

    Raises:
        ValueError: the file is damaged.

    """
    content = memoryview(path.read_bytes())
    for offset in range(0, len(content), SEGMENT_BYTES):
        for key, _, _, numbers in entries(content[offset : offset + SEGMENT_BYTES]):
            yield key, numbers


def entries(segment: memoryview) -> Iterator[tuple[str, int, int, tuple[float, ...]]]:
    """Yield the key, the position of the numbers, and the numbers of each series in a segment.

    A metric file consists of segments of 64 KiB. A segment has one entry for each of its series.

    Args:
        segment: the bytes of the segment.

    Yields:
        The key, the start and the end of the numbers in the segment, and the numbers. The start is
        the position of their first byte. The end is the position after their last byte.

    Raises:
        ValueError: the segment is damaged.

    """
    if len(segment) < HEADER_BYTES or int.from_bytes(segment[:8], sys.byteorder) != MAGIC:
        # If a segment contains only zeros, its writer was stopped before it wrote anything.
        if any(segment):
            msg = "expected a file of feedbus's metrics, got something else"
            raise ValueError(msg)
        return
    used = int.from_bytes(segment[8:HEADER_BYTES], sys.byteorder)
    if used > len(segment) or used % 8:
        msg = f"expected a segment of {used} bytes in use, got {len(segment)} bytes"
        raise ValueError(msg)
    at = HEADER_BYTES
    while at < used:
        key_bytes, length = ENTRY.unpack_from(segment, at)
        start = at + ENTRY.size + _aligned(key_bytes)
        end = start + 8 * length
        if end > used or not length:
            msg = f"expected an entry at byte {at}, got one that ends outside its segment"
            raise ValueError(msg)
        key = str(segment[at + ENTRY.size : at + ENTRY.size + key_bytes], "utf-8")
        numbers = struct.unpack_from(f"={length}d", segment, start)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            msg = f"expected counts for {key}, got {numbers}"
            raise ValueError(msg)
        yield key, start, end, numbers
        at = end


def _aligned(count: int) -> int:
    """Return a number of bytes, rounded up to a multiple of 8."""
    return (count + 7) & ~7


def _allocate(descriptor: int, offset: int) -> None:
    # If a mapped file has holes and the disk is full, a write into a hole kills the process with
    # SIGBUS. So zeros are written to the whole segment.
    written = os.pwrite(descriptor, bytes(SEGMENT_BYTES), offset)
    if written < SEGMENT_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _open_alone(path: Path) -> int | None:
    """Return the descriptor of a locked file; None if another process has locked the file."""
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    # The kernel may release the lock of a killed writer a moment after the next process has
    # started. So several attempts are made.
    for wait_seconds in (0.01, 0.04, 0.1, 0.0):
        try:
            if file_locks.try_lock(descriptor):
                return descriptor
        except OSError:
            os.close(descriptor)
            raise
        time.sleep(wait_seconds)
    os.close(descriptor)
    return None
