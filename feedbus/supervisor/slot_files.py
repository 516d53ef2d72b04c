"""The files of the slots of a watcher, which the supervisor reads and prepares.

A slot is the number of a process among the processes of its watcher. feedbus.process.slots lists
the kinds of files.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

from feedbus.process import status_files
from feedbus.process.slots import slot_path
from feedbus.process.watchdog import Note, Watchdog
from feedbus.runner import crash_guard


class SlotFiles:
    """The files of the processes of one watcher, such as their lock files and ready files.

    Each process has a slot: its number among the processes of the watcher. The names of its files
    contain this number.

    Attributes:
        folder: the folder of the files.

    """

    def __init__(self, folder: Path, name: str) -> None:
        """Create the object.

        Args:
            folder: the run folder of the system.
            name: the name of the watcher.

        """
        self.folder = folder
        self._name = name
        self._watchdogs: dict[int, Watchdog] = {}  # by process id

    def path(self, slot: int, kind: str) -> Path:
        """Return the path of a file of the process in a slot.

        Args:
            slot: the number of the process among the processes of the watcher, from 1.
            kind: the kind of the file: "lock", "ready", "holding", "waiting", "handler" or "exit".

        """
        return slot_path(self.folder, self._name, slot, kind)

    def give_to(self, user: str, slot: int) -> None:
        """Create the files of a slot, and make a user their owner.

        Args:
            user: the name of the user of the operating system who will run the process.
            slot: the number of the slot.

        """
        entry = pwd.getpwnam(user)
        for kind in ("lock", "ready", "handler", "holding", "waiting", "exit"):
            path = self.path(slot, kind)
            path.touch(mode=0o600)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def ready_since(self, slot: int, pid: int) -> float | None:
        """Return when a process became ready, in seconds since 1970; None if it is not ready.

        Args:
            slot: the slot of the process.
            pid: the process id.

        """
        return status_files.ready_since(self.path(slot, "ready"), pid)

    def record_exit(self, slot: int, pid: int, ending: str) -> None:
        """Record how a process has ended, for the next process in its slot.

        If the messages of the process become dead letters, their reasons contain this text.

        Args:
            slot: the slot of the process.
            pid: the process id.
            ending: how the process ended, such as "exit code 1" or "killed by SIGKILL".

        """
        status_files.write_exit(self.path(slot, "exit"), pid, ending)

    def clear_handler(self, slot: int) -> None:
        """Remove the messages of an ended process from the file `handler` of its slot.

        Otherwise the next process would treat the end as a crash that these messages have caused.

        Args:
            slot: the slot of the process.

        """
        crash_guard.clear(self.path(slot, "handler"))

    def end_hung(self, slots: Mapping[int, int]) -> Iterator[Note]:
        """End each process whose handler has exceeded its time limit, and yield its Note.

        The Note is what the process has written into the file `handler` of its slot: for example,
        the ids of the messages in the handler. A process gets SIGABRT when two calls in
        succession have found that its handler exceeds the limit. If the process still runs at the
        next call, it gets SIGKILL.

        Args:
            slots: maps the process id of each process that runs to its slot.

        """
        self._watchdogs = {
            pid: self._watchdogs.get(pid) or Watchdog(self.path(slot, "handler"), pid)
            for pid, slot in slots.items()
        }
        for watchdog in self._watchdogs.values():
            note = watchdog.check()
            if note is not None:
                yield note
