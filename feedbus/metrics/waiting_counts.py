"""How many records wait in the processes of the consumers, for `feedbus status` and `/metrics`.

A process has a *slot*, its number among the processes of its consumer. Each process writes its
counts to a status file of its slot. The sums are shown for each consumer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from feedbus.process.status_files import read_statuses, write_status

KIND = "waiting"  # the kind of the status files


class WaitingCounts(NamedTuple):
    """How many records a process has received from waiting queues, and does not handle yet.

    Attributes:
        waiting: the number of records that wait for an earlier record of their key.
        retrying: the number of records that have failed, and wait for their next attempt.

    """

    waiting: int = 0
    retrying: int = 0


def mark_waiting(counts: WaitingCounts) -> None:
    """Write to a file in the run folder how many records wait in this process.

    Each process of a consumer has such a file. In a process without it, such as a test, do nothing.

    Args:
        counts: the records in this process that wait for an earlier record or for their next
            attempt.

    """
    write_status(KIND, f"{counts.waiting} {counts.retrying}" if any(counts) else "")


def all_waiting(run_folder: Path) -> dict[str, WaitingCounts]:
    """Return how many records wait in the processes of each consumer, by the consumer's name.

    Consumers without waiting records are left out.

    Args:
        run_folder: the folder to which the processes write their status, from slots.run_folder().

    """
    return {name: _sum(lines) for name, lines in read_statuses(run_folder, KIND).items()}


def _sum(lines: Sequence[str]) -> WaitingCounts:
    """Return the sum of the counts of several processes."""
    counts = [WaitingCounts(*map(int, line.split())) for line in lines]
    return WaitingCounts(
        sum(each.waiting for each in counts), sum(each.retrying for each in counts)
    )
