"""Wait without polling: for a wake-up, the death of another connection, or a signal."""

from __future__ import annotations

import os
import selectors
from collections.abc import Mapping

from feedbus.clock import Clock
from feedbus.transports.sqlite.backend_interfaces import FAREWELL, WakeUps
from feedbus.transports.sqlite.signal_pipe import pipe

FALLBACK_SECONDS = 1.0  # the time between checks, if some wake-ups or deaths are not reported
# A child of a dead process may still hold the lock of a dead connection. The lock is checked again
# after this time.
LINGER_SECONDS = 0.1
# The events: another connection sent a wake-up; another connection or its process ended; a signal
# was handled; the descriptor of wake_on() is readable.
WAKE_UP, DIED, SIGNALLED, WOKEN = "wake-up", "died", "signalled", "woken"


class Watch:
    """Waits for wake-ups, deaths of other processes and signals at the same time.

    Each registered connection has one Watch object.

    Args:
        wake_ups: receives the wake-ups of the connection.
        clock: performs the waits; a virtual clock does not wait.
    """

    def __init__(self, wake_ups: WakeUps, clock: Clock) -> None:
        """Create the object. At first it waits for wake-ups; refresh() adds processes to watch."""
        self._wake_ups = wake_ups
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._blind = wake_ups.receiver is None  # whether no wake-ups can be received
        if wake_ups.receiver is not None:
            self._selector.register(wake_ups.receiver, selectors.EVENT_READ, WAKE_UP)
        self._signals = -1  # the registered descriptor of the signal pipe; -1 if there is none
        if clock.takes_time:
            pipe.join()
        self._process_by_connection: Mapping[
            int, int
        ] = {}  # maps the id of each other connection to its process
        self._processes: dict[int, int] = {}  # maps process ids to the descriptors that are watched
        # The ids of connections whose process is dead, but whose lock may still be held by a child.
        self._dead_connections: set[int] = set()
        self._unseen = False  # whether some processes cannot be watched by their process ids

    def wake_on(self, descriptor: int) -> None:
        """Also end each wait, with the event WOKEN, as soon as a descriptor can be read."""
        self._selector.register(descriptor, selectors.EVENT_READ, WOKEN)

    def refresh(self, namespace: str, others: Mapping[int, tuple[int, str]]) -> None:
        """Watch the processes of exactly these connections; called when connections have changed.

        Args:
            namespace: the PID namespace of this process.
            others: maps the id of each connection to its process id and the PID namespace of its
                process.
        """
        self._unseen = any(space != namespace for _, space in others.values())
        # A connection of this process reports its own end (FAREWELL), so it is not watched.
        self._process_by_connection = {
            owner: pid
            for owner, (pid, space) in others.items()
            if space == namespace and pid != os.getpid()
        }
        self._dead_connections &= self._process_by_connection.keys()
        wanted_pids = {
            pid
            for owner, pid in self._process_by_connection.items()
            if owner not in self._dead_connections
        }
        for pid in self._processes.keys() - wanted_pids:
            self._forget(pid)
        for pid in wanted_pids - self._processes.keys():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._note_death(pid)
            except (OSError, AttributeError):
                self._unseen = True
            else:
                self._processes[pid] = descriptor
                self._selector.register(descriptor, selectors.EVENT_READ, DIED)

    def _note_death(self, pid: int) -> None:
        self._dead_connections |= {
            owner for owner, process in self._process_by_connection.items() if process == pid
        }

    def _forget(self, pid: int) -> None:
        descriptor = self._processes.pop(pid)
        self._selector.unregister(descriptor)
        os.close(descriptor)

    def wait(self, timeout_seconds: float | None) -> set[str]:
        """Wait for events and return their names; the set is empty after the timeout.

        WAKE_UP: another connection has sent a wake-up. DIED: another connection or its process
        has ended. SIGNALLED: a signal was handled. WOKEN: the descriptor of wake_on() is
        readable. If no event occurs within the time of check_seconds(), WAKE_UP and DIED are
        returned, so that the caller checks the file.

        Args:
            timeout_seconds: the longest wait; None to wait without a limit.
        """
        check_after = self.check_seconds()
        limits = [limit for limit in (timeout_seconds, check_after) if limit is not None]
        self._listen_to_signals()
        events = self._clock.select(self._selector, max(0, min(limits)) if limits else None)
        happened = {key.data for key, _ in events}
        for key, _ in events:
            if key.data == DIED:
                pid = next(pid for pid, number in self._processes.items() if number == key.fd)
                self._forget(pid)
                self._note_death(pid)
        if WAKE_UP in happened and FAREWELL in self._wake_ups.read():
            happened.add(DIED)
        if SIGNALLED in happened:
            pipe.read_signals()
        if not happened and check_after is not None and check_after == min(limits):
            happened = {WAKE_UP, DIED}
        return happened

    def fileno(self) -> int:
        """Return a descriptor that is readable when an event has occurred, for an event loop."""
        self._listen_to_signals()
        return self._selector.fileno()

    def check_seconds(self) -> float | None:
        """Return the seconds between two checks of the file, if some events are not reported.

        None means that no check is needed.
        """
        if self._dead_connections:  # a child process may hold the lock a little longer
            return LINGER_SECONDS
        return FALLBACK_SECONDS if self._blind or self._unseen else None

    def _listen_to_signals(self) -> None:
        if not self._clock.takes_time:  # there is no real wait that a signal could end
            return
        reader = pipe.listen()
        if reader != self._signals:
            if self._signals >= 0:
                self._selector.unregister(self._signals)
            if reader >= 0:
                self._selector.register(reader, selectors.EVENT_READ, SIGNALLED)
            self._signals = reader

    def close(self) -> None:
        """Close all descriptors that are watched, because the connection is closed."""
        self.drop()
        if self._clock.takes_time:
            pipe.leave()

    def drop(self) -> None:
        """Close the descriptors of this process; called in a forked child, and by close().

        The parent of a forked child keeps its own descriptors.
        """
        for descriptor in self._processes.values():
            os.close(descriptor)
        self._processes.clear()
        self._selector.close()
