"""Report the tests that take the most processor time: unlike duration, it does not grow with load.

What a test's child processes take counts too, also while they still run. What several tests share,
such as a server, counts for the test that starts it.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_SECONDS = 20
REPORTED = 10  # or as many as --durations asks for
SHORTEST_SECONDS = 0.5
PROPERTY = "processor_seconds"

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STARTED = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    item.stash[STARTED] = processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        spent = processor_seconds() - item.stash[STARTED]
        report.user_properties.append((PROPERTY, max(spent, 0.0)))
    return report


def pytest_terminal_summary(terminalreporter, config):
    spent = {
        report.nodeid: dict(report.user_properties)[PROPERTY]
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
    }
    longest = sorted(spent.items(), key=lambda item: item[1], reverse=True)
    longest = longest[: config.getoption("durations") or REPORTED]
    shown = [(test, seconds) for test, seconds in longest if seconds >= SHORTEST_SECONDS]
    if not shown:
        return
    total = sum(spent.values())
    terminalreporter.section(f"longest tests by processor time, of {total:.0f} s in all")
    for test, seconds in shown:
        over = f"  over the limit of {LIMIT_SECONDS} s" if seconds > LIMIT_SECONDS else ""
        terminalreporter.line(f"{seconds:6.1f} s  {test}{over}")


def processor_seconds() -> float:
    """Return the processor time of this process and of its descendants, dead or alive."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + ended.ru_utime + ended.ru_stime
    return own + sum(map(seconds_of, descendants(os.getpid())))


def descendants(parent: int) -> Iterator[int]:
    try:
        lists = [path.read_text() for path in Path(f"/proc/{parent}/task").glob("*/children")]
    except OSError:  # the process has ended, or there is no /proc
        return
    for child in map(int, " ".join(lists).split()):
        yield child
        yield from descendants(child)


def seconds_of(process: int) -> float:
    """Return the processor time of a live process and of those of its children that have ended."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return 0.0
    after_name = status.rpartition(")")[2].split()
    return sum(map(int, after_name[11:15])) / TICKS_PER_SECOND  # utime, stime, cutime, cstime
