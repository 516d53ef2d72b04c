"""Messages that wait for a commit: in memory, or above a certain size in a temporary file."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Self

from feedbus.wire import Outgoing

MEMORY_BYTES = 4_000_000  # above this size, bodies are kept in a file


class Spool:
    """A list of messages; if their bodies are large, they are in a temporary file, to save memory.

    It keeps the messages of a handler call until the commit of its transaction.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        """Create an empty list.

        Args:
            memory_bytes: the largest size of all bodies in memory. Above this size, the messages
                are moved to a file.

        """
        self._memory_bytes = memory_bytes
        self._in_memory: list[Outgoing] = []
        self._bytes_in_memory = self._bytes_in_file = self._count = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Return the spool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the temporary file."""
        self.clear()

    def __bool__(self) -> bool:
        """Whether there are any messages."""
        return bool(self._in_memory) or self._file is not None

    def __len__(self) -> int:
        """Count the messages."""
        return self._count

    @property
    def body_bytes(self) -> int:
        """The size of all bodies in bytes."""
        return self._bytes_in_file + self._bytes_in_memory

    def clear(self) -> None:
        """Remove all messages, and delete the temporary file."""
        self._in_memory, self._bytes_in_memory = [], 0
        self._bytes_in_file = self._count = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, messages: Sequence[Outgoing]) -> None:
        """Append messages; if the bodies in memory are too large, move the messages to a file.

        Args:
            messages: the messages, in order.

        """
        self._in_memory += messages
        self._count += len(messages)
        self._bytes_in_memory += sum(len(message.body) for message in messages)
        if self._bytes_in_memory > self._memory_bytes:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="feedbus-")  # noqa: SIM115 -- closed on exit
            pickle.dump(self._in_memory, self._file, pickle.HIGHEST_PROTOCOL)
            self._bytes_in_file += self._bytes_in_memory
            self._in_memory, self._bytes_in_memory = [], 0

    def __iter__(self) -> Iterator[Outgoing]:
        """Yield the messages in order; after the iteration has begun, call clear() before add()."""
        if self._file is not None:
            end = self._file.tell()
            self._file.seek(0)
            while self._file.tell() < end:
                yield from pickle.load(self._file)  # noqa: S301 -- only add() writes this file
        yield from self._in_memory
