"""End a consumer whose handler exceeds its time limit, from another process.

A handler that keeps Python's interpreter lock stops every thread of its process, so no thread of
the process can end it. The consumer writes into a file which messages are in its handler, and the
handler's deadline. The supervisor reads the file. For a consumer that was started without a
supervisor, this module reads the file in a separate process:
`python watchdog.py FILE PID NAME LOG_FORMAT`. The module imports few others, to start fast.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PLAIN_ID = re.compile(r"[\w.:/+@-]*", re.ASCII)  # characters that JSON does not escape
UNTIL_AT = 1  # the position of the deadline in the file, in bytes
ENDED = 0.0  # in place of the deadline, if a watchdog has ended the process
CHECK_SECONDS = 1.0  # the time between two checks of a process
CHECKS_BEFORE_ABORT = 2  # the number of the check that sends SIGABRT
ERROR = 40  # the value of logging.ERROR; logging takes long to import


@dataclass(frozen=True, slots=True)
class Note:
    """The content of the file into which a consumer writes the messages in its handler.

    The consumer writes the file before each call; a Watchdog reads it each second.

    Attributes:
        until: the deadline of the handler, in the seconds of now(); None while no handler runs;
            ENDED if the watchdog has ended the process.
        pid: the id of the process that wrote the file.
        crashes: maps message ids to the number of crashes that are counted against the message, and
            the cause of the last crash. It contains each message that was in the handler at a crash
            and is not settled yet.
        message_ids: the ids of the messages in the handler.

    """

    until: float | None
    pid: int
    crashes: dict[str, tuple[int, str]]
    message_ids: tuple[str, ...]

    @classmethod
    def read(cls, descriptor: int) -> Note | None:
        """Return the note in a file; None if it is empty, incomplete, or of another version.

        Args:
            descriptor: the descriptor of the open file.

        """
        size = os.fstat(descriptor).st_size
        line, _, _ = os.pread(descriptor, size, 0).partition(b"\n")
        try:
            until, pid, crashes, message_ids = json.loads(line)
            counts = {str(name): (int(count), str(why)) for name, (count, why) in crashes.items()}
            return cls(until, int(pid), counts, tuple(message_ids))
        except (ValueError, TypeError, AttributeError):
            return None

    def overdue(self, at: float) -> float:
        """Return by how many seconds the handler has exceeded its time limit, or 0.

        Args:
            at: the time, in seconds, from watchdog.now().

        """
        return 0.0 if self.until is None else max(0.0, at - self.until)

    def __str__(self) -> str:
        """Return the id of the first message in the handler, and the number of the others."""
        first = self.message_ids[0] if self.message_ids else "a message"
        more = len(self.message_ids) - 1
        return f"{first} and {more} more" if more > 0 else first


def note_line(
    until: float | None,
    pid: int,
    crashes: Mapping[str, tuple[int, str]],
    message_ids: Sequence[str],
) -> bytes:
    """Return the line for the file of a process; Note.read() returns the same values.

    This function is called before each call of a handler.

    Args:
        until: the deadline of the handler, in seconds, on the clock of now(); None while no handler
            runs.
        pid: the id of the process that writes the file.
        crashes: maps message ids to the number of crashes that are counted against the message, and
            the cause of the last crash. It contains each message that was in the handler at a crash
            and is not settled yet.
        message_ids: the ids of the messages in the handler.

    """
    if not crashes and len(message_ids) == 1 and PLAIN_ID.fullmatch(message_ids[0]):
        # This is enough for most message ids. The module json would take ten times as long.
        return b'[%s, %d, {}, ["%s"]]\n' % (until_text(until), pid, message_ids[0].encode())
    rest = json.dumps([pid, crashes, message_ids])[1:]
    return b"[%s, %s\n" % (until_text(until), rest.encode())


def until_text(until: float | None) -> bytes:
    """Return the deadline of the handler as text for the file of a process.

    All such texts have the same length, so one can be written over another in the file.

    Args:
        until: the deadline, in seconds, on the clock of now(); None while no handler runs.

    """
    return b"%-24s" % (b"null" if until is None else repr(until).encode())


def now() -> float:
    """Return the time in seconds, by a monotonic clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class Watchdog:
    """Reads the file of one process, and ends the process if its handler exceeds its time limit.

    The supervisor has one Watchdog object for each process of a consumer; without a supervisor, a
    child process of the consumer has one.
    """

    def __init__(self, path: Path, pid: int) -> None:
        """Create the watchdog for a process.

        Args:
            path: the file into which the process writes the messages in its handler.
            pid: the process id.

        """
        self._path = path
        self._pid = pid
        self._overdue: float | None = None
        self._checks = 0

    def check(self) -> Note | None:
        """Check once whether the handler has exceeded its deadline.

        If two checks in succession find that the handler has exceeded the same deadline, the second
        check sends SIGABRT. One check is not enough, because it may have read an incomplete line.
        After SIGABRT, Python's faulthandler writes the stacks of the threads and ends the process,
        without the interpreter lock. If the process still runs, the next check sends SIGKILL.

        Before this function sends SIGABRT, it replaces the deadline in the file by ENDED. The next
        process of the consumer reads ENDED, and knows that the watchdog has ended the process
        before it. An exceeded deadline would not prove this: a process can end by itself before its
        deadline, and the next process can start after this deadline.

        Returns:
            The note that the process has written, if this check sends SIGABRT; else None.

        """
        note = self._read()
        if note is None or note.pid != self._pid or not note.overdue(now()):
            self._overdue, self._checks = None, 0
            return None
        self._checks = self._checks + 1 if note.until == self._overdue else 1
        self._overdue = note.until
        if self._checks < CHECKS_BEFORE_ABORT:
            return None
        if self._checks > CHECKS_BEFORE_ABORT:
            self._send(signal.SIGKILL)
            return None
        self._write_ended()
        self._overdue = ENDED
        self._send(signal.SIGABRT)
        return note

    def _write_ended(self) -> None:
        # If this write fails, the next process does not know that a watchdog has ended the process.
        # Only the reason in a dead letter is then less exact.
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, until_text(ENDED), UNTIL_AT)
            finally:
                os.close(descriptor)

    def _read(self) -> Note | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return Note.read(descriptor)
        finally:
            os.close(descriptor)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self._pid, number)


def describe(note: Note) -> str:
    """Return the text of the event `hangs` for a process that Watchdog.check() has ended.

    Args:
        note: the messages in the handler and its deadline, which check() has returned.

    """
    return (
        f"the handler has exceeded handler_timeout by {note.overdue(now()):.0f} s while it handles"
        f" {note}; process {note.pid} is ended with SIGABRT and writes the stacks of its threads to"
        " its log; the message is delivered again"
    )


@contextlib.contextmanager
def over(name: str, path: Path, *, log_format: str, supervised: bool) -> Iterator[None]:
    """Watch this process in a `with` block: end it if its handler exceeds its time limit.

    The supervisor watches this process. Without a supervisor, a child process watches it.

    Args:
        name: the name of the consumer.
        path: the file into which this process writes the messages in its handler.
        log_format: the format of the line that the child process logs, "text" or "json".
        supervised: whether there is a supervisor.

    """
    # With faulthandler, this process writes the stacks of its threads to its log at SIGABRT.
    faulthandler.enable()
    if supervised:
        yield
        return
    import subprocess  # only a process without a supervisor needs it

    words = [sys.executable, "-IS", __file__, str(path), str(os.getpid())]
    words += [name, log_format]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as child:
        try:
            yield
        finally:
            if child.stdin is not None:
                child.stdin.close()


def main(arguments: Sequence[str]) -> None:
    """Watch the process that has started this process, until that process ends.

    Args:
        arguments: FILE, the file that the watched process writes; PID, the id of that process;
            NAME, the name of its consumer; LOG_FORMAT, "text" or "json".

    """
    path, pid, name, log_format = Path(arguments[0]), int(arguments[1]), *arguments[2:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # this process ends when its parent ends
    watchdog = Watchdog(path, pid)
    # The parent has the other end of stdin open until it ends. Then stdin becomes readable.
    while os.getppid() == pid and not select.select([sys.stdin], [], [], CHECK_SECONDS)[0]:
        note = watchdog.check()
        if note is not None:
            sys.stderr.write(_line(name, log_format, note))


def _line(name: str, log_format: str, note: Note) -> str:
    """Return the log line for a process that hangs."""
    # Python was started with -I, so the path of the package is missing.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from feedbus.logs import Event, log_line

    event = Event("hangs", describe(note), {"consumer": name, "pid": note.pid})
    return log_line(log_format, ERROR, event) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
