"""Remember what is in a handler's hands, so that a message that kills its process is found out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

DEATHS_ALLOWED = 5


class Suspects:
    """Message ids in hand, in a file that outlives the process.

    Whatever the file names when a process starts was in hand when the one before it died: from
    then on it is handled alone, and after DEATHS_ALLOWED deaths while it was alone it is a dead
    letter. Deaths in company are held against nobody: somebody may just kill processes. A classic
    queue has no delivery count that would tell this.
    """

    def __init__(self, path: Path) -> None:
        """Read what an earlier process left in the file, and keep the file open."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._deaths, in_hand = self._read()
        alone = len(in_hand) == 1
        for message_id in in_hand:
            self._deaths[message_id] = self.deaths(message_id) + alone
        self._in_hand: list[str] = []
        self._write()

    def __enter__(self) -> Self:
        """Return the suspects themselves."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the file; a clean end leaves no one in hand, an error those it may be due to."""
        if kind is None:
            self.release()
        os.close(self._descriptor)

    def suspected(self, message_id: str) -> bool:
        """Whether a process died with this message in hand, so that it is to be handled alone."""
        return message_id in self._deaths

    def deaths(self, message_id: str) -> int:
        """Return how many processes died with this message alone in hand."""
        return self._deaths.get(message_id, 0)

    def take(self, message_ids: Sequence[str]) -> None:
        """Note what a handler is about to be given."""
        self._in_hand = list(message_ids)
        self._write()

    def release(self, *, settled: bool = False) -> None:
        """Note that the handler has returned; settled messages are under suspicion no more."""
        if settled and self._deaths:
            for message_id in self._in_hand:
                self._deaths.pop(message_id, None)
        self._in_hand = []
        self._write()

    def _read(self) -> tuple[dict[str, int], list[str]]:
        size = os.fstat(self._descriptor).st_size
        line, _, _ = os.pread(self._descriptor, size, 0).partition(b"\n")
        try:
            deaths, in_hand = json.loads(line)
            return dict(deaths), list(in_hand)
        except (ValueError, TypeError):
            return {}, []  # empty, or torn by the death itself: nobody is suspected wrongly

    def _write(self) -> None:
        # Over the line before, whose rest stays behind it: twice a batch, a file that grows and
        # shrinks costs its file system much more.
        line = b""
        if self._deaths or self._in_hand:
            line = json.dumps([self._deaths, self._in_hand]).encode()
        os.pwrite(self._descriptor, line + b"\n", 0)
