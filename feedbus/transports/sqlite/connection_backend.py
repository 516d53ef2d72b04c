"""The backend of a connection to a broker file: tables, wake-ups, locks and maintenance."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from feedbus.clock import Clock, SystemClock
from feedbus.transports.sqlite.backend_interfaces import Liveness, Maintenance, WakeUps
from feedbus.transports.sqlite.broker_time import BrokerTime
from feedbus.transports.sqlite.compaction import Compaction
from feedbus.transports.sqlite.liveness import Locks
from feedbus.transports.sqlite.schema import live_folder, open_database
from feedbus.transports.sqlite.transactions import BUSY_TIMEOUT_SECONDS, Tables, unavailable
from feedbus.transports.sqlite.wakeup import WakeUpSockets


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of one connection that differ between a broker file and a broker in memory.

    Attributes:
        tables: the tables of the broker.
        clock: measures the waits; a broker in memory can have a virtual one.
        random: makes random names and pauses.
        wake_ups: wakes other connections, and receives wake-ups.
        liveness: shows that this connection is live, and checks other connections.
        upkeep: maintains the file while nobody uses it; for example, it rewrites the file.
    """

    tables: Tables
    clock: Clock
    random: random.Random
    wake_ups: WakeUps
    liveness: Liveness
    upkeep: Maintenance


def open_file(path: Path, *, busy_timeout_seconds: float = BUSY_TIMEOUT_SECONDS) -> Backend:
    """Return the backend of a new connection to a broker file; create the file if it is missing.

    Args:
        path: the broker file.
        busy_timeout_seconds: how long to wait while another process has locked the file.

    Raises:
        FileUnavailable: the file cannot be opened or created.

    """
    name = f"broker file {path}"
    try:
        database = open_database(path, busy_timeout_seconds=busy_timeout_seconds)
    except (sqlite3.DatabaseError, OSError) as error:
        raise unavailable(name, error, busy_timeout_seconds) from error
    try:
        time = BrokerTime(database)
    except sqlite3.DatabaseError as error:
        database.close()
        raise unavailable(name, error, busy_timeout_seconds) from error
    live = live_folder(path)
    return Backend(
        Tables(name, database, time, busy_timeout_seconds=busy_timeout_seconds),
        SystemClock(),
        random.SystemRandom(),  # has no state, so a forked child does not repeat random names
        WakeUpSockets(live),
        Locks(live),
        Compaction(database, path, live),
    )
