"""A file with the ids of the messages that are in the handler, to find messages that end processes.

The file also contains the deadline of the handler. If the handler still runs at its deadline, the
watchdog (feedbus.process.watchdog) ends the process.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from feedbus.process import status_files, watchdog
from feedbus.process.private_files import open_private, private_folder
from feedbus.process.watchdog import ENDED, UNTIL_AT, Note, note_line, until_text
from feedbus.units import counted

DIED = "the process ended"
HUNG = "the handler took longer than handler_timeout"


def clear(path: Path) -> None:
    """Remove from the file of an ended process the ids of the messages that were in its handler.

    So the end of the process is counted against none of these messages. The supervisor calls this
    function when it has killed a process that did not stop in time.

    Args:
        path: the file of the process; it can be missing.

    """
    if path.exists():
        with CrashGuard(path, forgiving=True):
            pass


class CrashGuard:
    """The ids of the messages that are in the handler, in a file that remains after a crash.

    If the file contains ids when a process starts, these messages were in the handler when the
    previous process crashed. Each of them is *suspected*: it may have ended the process. Until it
    is settled, it is handled alone. If only one message was in the handler, the crash is counted
    against this message. After `delivery_limit` such crashes, it becomes a dead letter. If several
    messages were in the handler, it is not known which of them is the cause, so the crash is
    counted against none of them.

    If the handling of a message causes the loss of the connection to the broker, this counts as a
    crash, too.

    Each consumer process has one CrashGuard object for its whole life. The file belongs to the
    *slot* of the process: its number among the processes of the consumer. The next process in the
    same slot reads the file.
    """

    def __init__(
        self, path: Path, *, forgiving: bool = False, now: Callable[[], float] = watchdog.now
    ) -> None:
        """Read the file of an earlier process, and keep it open.

        Args:
            path: the file.
            forgiving: True if the end of the earlier process is counted against no message.
            now: returns the time in seconds, by a clock that all processes of the machine share.

        Raises:
            NotPrivate: another user can write to the file or its folder.

        """
        self._now = now
        private_folder(path.parent)
        self._descriptor = open_private(path, os.O_RDWR | os.O_CREAT, any_owner=True)
        self._pid = os.getpid()
        self._thread = threading.get_ident()
        self._until: float | None = None  # the deadline in the file; None if there is none
        self._line_length = 0  # the length of the line in the file
        # If the file is empty, or incomplete because of a crash, no message is suspected.
        note = Note.read(self._descriptor) or Note(None, 0, {}, ())
        # For each suspected message: the number of crashes, and the cause of the last one.
        self._crashes = note.crashes
        self._in_handler: Sequence[str] = ()
        if not forgiving:
            ending = status_files.read_exit(path.with_suffix(".exit"), note.pid)
            died = f"{DIED} ({ending})" if ending else DIED
            self.blame(note.message_ids, HUNG if note.until == ENDED else died)
        self.release()

    def __enter__(self) -> Self:
        """Return the crash guard itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file.

        After a clean end, no message is in the handler according to the file. After an error, the
        file keeps the messages that were in the handler, because one of them may be the cause.
        """
        if kind is None:
            self.release()
        os.close(self._descriptor)

    def is_suspected(self, message_id: str) -> bool:
        """Whether this message may have ended an earlier process, so that it is handled alone.

        This method is called before a message is added to a batch or to a group.

        Args:
            message_id: the id of the message.

        """
        return message_id in self._crashes

    def reason_to_give_up(self, message_id: str, delivery_limit: int) -> str:
        """Return why a message becomes a dead letter, or "" if it may still be handled.

        Mode._call_handler() calls this with the first message of a batch, before the handler gets
        the batch. A message that may have ended a process is alone in its batch.

        Args:
            message_id: the id of the message.
            delivery_limit: the number of crashes after which a message becomes a dead letter.

        """
        crashes, cause = self._crashes.get(message_id, (0, ""))
        if crashes < delivery_limit:
            return ""
        return (
            "while the message was handled, the process or its connection ended"
            f" {counted(crashes, 'time')};"
            f" the last time, {cause}"
        )

    def set_messages(self, message_ids: Sequence[str], seconds: float) -> None:
        """Write into the file which messages a handler is about to handle, and their deadline.

        If a handler still runs at the deadline, the watchdog ends the process. The modes of the
        runner call this before they call handlers.

        Args:
            message_ids: the ids of the messages.
            seconds: the time limit of the handler, which begins now, in seconds.

        """
        self._in_handler = message_ids
        self._thread = threading.get_ident()
        self._write(self._now() + seconds)

    def add_messages(self, message_ids: Sequence[str]) -> None:
        """Add messages to the messages of set_messages(), before handlers get the added ones.

        Only the ids of the added messages are written to the file. The deadline does not change.
        The concurrent mode calls this when it starts more handler calls.

        Args:
            message_ids: the ids of the added messages.

        """
        self._in_handler = [*self._in_handler, *message_ids]
        # The line ends with the list of the ids: [..., ["first", "second"]]
        old_end, new_end = b"]]\n", f", {json.dumps(message_ids)[1:]}]\n".encode()
        os.pwrite(self._descriptor, new_end, self._line_length - len(old_end))
        self._line_length += len(new_end) - len(old_end)

    def set_time_limit(self, seconds: float) -> None:
        """Set the time limit of the messages in the handler; the time begins now.

        The concurrent mode calls this when another handler call has become the oldest one.

        Args:
            seconds: the time until the watchdog ends the process, if the handler still runs then.

        """
        self._until = self._now() + seconds
        os.pwrite(self._descriptor, until_text(self._until), UNTIL_AT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of a `with` block as time of the handler.

        In the block, a handler waits for the broker, or for the store during an outage.

        Exception: the time is counted if another thread than that of the block has called
        set_messages(). This is the case in the concurrent mode: several handlers can run at the
        same time, and the file has one deadline for all of them.
        """
        if self._until is None or threading.get_ident() != self._thread:
            yield
            return
        left_seconds, self._until = self._until - self._now(), None
        os.pwrite(self._descriptor, until_text(None), UNTIL_AT)
        try:
            yield
        finally:
            self._until = self._now() + left_seconds
            os.pwrite(self._descriptor, until_text(self._until), UNTIL_AT)

    @contextmanager
    def nested(self) -> Iterator[Sequence[str]]:
        """Let a `with` block write other messages to the file; restore the earlier ones after it.

        The block gets the ids of the earlier messages. The time of the block does not count for
        the time limit of the earlier messages.

        The block runs when a handler pauses, and other messages are handled in the pause.
        """
        outer, until = self._in_handler, self._until
        left_seconds = (until if until is not None else self._now()) - self._now()
        try:
            yield outer
        finally:
            self._in_handler = outer
            self._write(self._now() + left_seconds)

    def blame(self, message_ids: Sequence[str], cause: str) -> None:
        """Suspect messages of having ended a process; if there is only one, count a crash.

        This method is called at the start of a process, with the messages in the file, and when the
        handling of a message has caused the loss of the connection.

        Args:
            message_ids: the ids of the messages that were in the handler.
            cause: what has ended, and why; a text for the reason of the dead letter.

        """
        is_single = len(message_ids) == 1
        for message_id in message_ids:
            crashes, _ = self._crashes.get(message_id, (0, ""))
            self._crashes[message_id] = (crashes + is_single, cause)

    def release(self, *, settled: bool = False) -> None:
        """Register that the handler has returned, so that the file names no message any more.

        The modes of the runner call this after each batch.

        Args:
            settled: whether the messages were also settled. Then they are no longer suspected.

        """
        if settled and self._crashes:
            for message_id in self._in_handler:
                self._crashes.pop(message_id, None)
        self._in_handler = ()
        self._write(None)

    def _write(self, until: float | None) -> None:
        """Write the messages and the deadline; None if no handler runs."""
        # The new line overwrites the start of the old line. Only the first line of the file is
        # read, so the rest of the old line can stay. To remove it would change the size of the file
        # for each batch, which is much slower.
        self._until = until
        line = b"\n"
        if self._crashes or self._in_handler:
            line = note_line(until, self._pid, self._crashes, self._in_handler)
        os.pwrite(self._descriptor, line, 0)
        self._line_length = len(line)
