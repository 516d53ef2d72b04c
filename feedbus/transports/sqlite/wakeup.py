"""Waiting without polling: until a publisher rings, another connection dies, or a signal comes.

Each connection that consumes has a datagram socket in the folder beside the broker file, named by
its id; who puts something on its queues sends it a word after the commit. A socket's path may have
108 bytes at most; on Linux a longer one goes through a descriptor of the folder.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

LONGEST_SOCKET_PATH = 107
FALLBACK_SECONDS = 1.0  # between looks where the kernel cannot tell
NEWS, FAREWELL = b"news", b"farewell"  # what the sender wants looked at
RANG, DIED, SIGNALLED = "rang", "died", "signalled"


class Bell:
    """Sends words to connections' sockets, and receives those for this one."""

    def __init__(self, folder: Path) -> None:
        """Prepare to ring others."""
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path = folder
        self._long = len(os.fsencode(folder)) + 20 > LONGEST_SOCKET_PATH
        self._sender = self._make()
        self.receiver: socket.socket | None = None

    def _make(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        made.setblocking(False)
        return made

    def _address(self, owner: int) -> str:
        if self._long and sys.platform == "linux":
            return f"/proc/self/fd/{self._folder}/{owner}.sock"
        return str(self._path / f"{owner}.sock")

    def listen(self, owner: int) -> None:
        """Receive what is sent to a connection; without sockets the wait falls back to looking."""
        receiver = self._make()
        try:
            receiver.bind(self._address(owner))
        except OSError:
            receiver.close()
        else:
            self.receiver = receiver

    def ring(self, owners: Iterable[int], meaning: bytes = NEWS) -> None:
        """Wake connections; one that is gone, or has words waiting already, needs no other."""
        for owner in owners:
            with contextlib.suppress(OSError):
                self._sender.sendto(meaning, self._address(owner))

    def silence(self) -> set[bytes]:
        """Take what has arrived, and say what it means."""
        heard = set()
        with contextlib.suppress(OSError):
            while self.receiver is not None and (meaning := self.receiver.recv(16)):
                heard.add(meaning)
        return heard

    def close(self, owner: int | None) -> None:
        """Close and remove the socket; a second time does nothing."""
        if self._folder < 0:
            return
        self._sender.close()
        if self.receiver is not None:
            self.receiver.close()
            self.receiver = None
            with contextlib.suppress(FileNotFoundError):
                (self._path / f"{owner}.sock").unlink()
        os.close(self._folder)
        self._folder = -1


class Watch:
    """Waits on a bell, on the deaths of other processes, and on signals, all at once."""

    def __init__(self, bell: Bell) -> None:
        """Start with the bell alone; heed() adds processes."""
        self._bell = bell
        self._selector = selectors.DefaultSelector()
        self._blind = bell.receiver is None
        if bell.receiver is not None:
            self._selector.register(bell.receiver, selectors.EVENT_READ, RANG)
        self._signalled, self._signal_writer = socket.socketpair()
        for end in (self._signalled, self._signal_writer):
            end.setblocking(False)
        self._selector.register(self._signalled, selectors.EVENT_READ, SIGNALLED)
        self._processes: dict[int, int] = {}  # pid: descriptor
        self._unseen = False

    def heed(self, namespace: str, others: Mapping[int, str]) -> bool:
        """Watch exactly these processes.

        Args:
            namespace: the space of process ids that this process lives in.
            others: process ids and the spaces they are from.

        Returns:
            Whether one of them is dead already, or cannot be told from a dead one.

        """
        own = os.getpid()
        wanted = {pid for pid, space in others.items() if space == namespace and pid != own}
        self._unseen = any(space != namespace for space in others.values())
        for pid in self._processes.keys() - wanted:
            self._forget(pid)
        died = False
        for pid in wanted - self._processes.keys():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                died = True
            except (OSError, AttributeError):
                self._unseen = True
            else:
                self._processes[pid] = descriptor
                self._selector.register(descriptor, selectors.EVENT_READ, DIED)
        return died

    def _forget(self, pid: int) -> None:
        descriptor = self._processes.pop(pid)
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def wait(self, timeout_seconds: float | None) -> set[str]:
        """Wait until something happens; say what, nothing when the time is up."""
        limit = timeout_seconds
        if self._blind or self._unseen:
            limit = FALLBACK_SECONDS if limit is None else min(limit, FALLBACK_SECONDS)
        if limit is not None and limit <= 0:
            events = self._selector.select(0)
        else:
            with self._hearing_signals():
                events = self._selector.select(limit)
        happened = {key.data for key, _ in events}
        for key, _ in events:
            if key.data == DIED:
                gone = [pid for pid, number in self._processes.items() if number == key.fd]
                for pid in gone:
                    self._forget(pid)
        if RANG in happened and FAREWELL in self._bell.silence():
            happened.add(DIED)
        if (self._blind or self._unseen) and not happened:
            happened = {RANG, DIED} if self._unseen else {RANG}
        return happened

    @contextmanager
    def _hearing_signals(self) -> Iterator[None]:
        # Python retries an interrupted wait; only a byte ends it once the handler has run.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._signal_writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            with contextlib.suppress(OSError):
                heard = self._signalled.recv(4096)
                if before >= 0:
                    os.write(before, heard)

    def close(self) -> None:
        """Close all that is watched."""
        for pid in list(self._processes):
            self._forget(pid)
        self._selector.close()
        self._signalled.close()
        self._signal_writer.close()
