"""The time of the broker in milliseconds; it advances evenly, also if the wall clock is changed.

Times to live, delays and the age of unused queues are measured in this time. It is the kernel's
time since boot, plus an offset that the file keeps. So the time is the same in all processes, and a
restart of a process does not change it. After a reboot, the time continues from the wall clock or
from its last value, whichever is later.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

NOTED_EVERY_MS = 60_000  # the time between two writes of the time to the file
TABLE = """
CREATE TABLE IF NOT EXISTS clock (
    boot TEXT NOT NULL,             -- the boot for which the offset is valid
    offset_ms INTEGER NOT NULL,     -- the broker's time minus the time since boot
    seen_ms INTEGER NOT NULL        -- the broker's time, noted once a minute
)
"""


def wall_ms() -> int:
    """Return the time of the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def since_boot() -> tuple[str, int] | None:
    """Return an id of the boot and the milliseconds since the boot.

    The result is None if the system does not report such an id.

    The id also contains the time namespace of this process: in another namespace, the kernel can
    report another time since boot.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/time").readlink()
    except OSError:
        return None
    return f"{boot} {namespace}", time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class BrokerTime:
    """Returns the broker's time in milliseconds: the time since boot, plus an offset.

    The offset is in the broker's file, so all processes that use the file get the same time. Each
    connection has one BrokerTime object.

    Args:
        database: the connection to the file. The constructor reads the offset from the file. If no
            process has used the file since the boot, the constructor writes a new offset.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        """Read the offset, or set it at the first connection after a boot."""
        self._note_at_ms = 0
        self._offset_ms: int | None = None
        started = since_boot()
        if started is None:
            return
        boot, milliseconds = started
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'clock'").fetchone():
            database.execute(TABLE)  # the file is new, or of an earlier feedbus
        self._offset_ms = _offset(database, boot)
        if self._offset_ms is None:
            database.execute("BEGIN IMMEDIATE")
            with database:
                self._offset_ms = _offset(database, boot)  # another process may have been faster
                if self._offset_ms is None:
                    self._offset_ms = _begin(database, boot, milliseconds)

    def now_ms(self) -> int:
        """Return the broker's time in milliseconds, by which messages expire.

        It never goes backwards, except on a system that does not report the time since its boot. On
        such a system, it is the wall clock's time.
        """
        if self._offset_ms is None:
            return wall_ms()
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + self._offset_ms

    def current_datetime(self) -> datetime:
        """Return the wall clock's time, in UTC."""
        return datetime.now(UTC)

    def note(self, database: sqlite3.Connection, now_ms: int) -> None:
        """Store the broker's time, so that the time is not earlier after the next boot.

        Each write transaction calls it; it writes only once a minute.

        Args:
            database: the connection to the file, with the open transaction.
            now_ms: the broker's time in milliseconds.
        """
        if now_ms >= self._note_at_ms and self._offset_ms is not None:
            database.execute("UPDATE clock SET seen_ms = ? WHERE seen_ms < ?", (now_ms, now_ms))
            self._note_at_ms = now_ms + NOTED_EVERY_MS


def _offset(database: sqlite3.Connection, boot: str) -> int | None:
    row = database.execute("SELECT offset_ms FROM clock WHERE boot = ?", (boot,)).fetchone()
    return row[0] if row else None


def _begin(database: sqlite3.Connection, boot: str, milliseconds: int) -> int:
    row = database.execute("SELECT seen_ms FROM clock").fetchone()
    now_ms = max(wall_ms(), row[0] if row else 0)
    database.execute("DELETE FROM clock")
    values = (boot, now_ms - milliseconds, now_ms)
    database.execute("INSERT INTO clock VALUES (?,?,?)", values)
    return now_ms - milliseconds
