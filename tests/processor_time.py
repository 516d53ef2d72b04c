"""Report the tests that take the most processor time: unlike duration, it does not grow with load.

The time of a test's child processes counts, too, also while they still run. The start of objects
that several tests share, such as a server, is listed separately and counts for no test.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIMIT_SECONDS = 20
REPORTED = 10  # or as many as --durations asks for
SHORTEST_SECONDS = 0.5
PROPERTY = "processor_seconds"
SHARED = "shared_processor_seconds"

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STARTED = pytest.StashKey[float]()

_shared: list[tuple[str, float]] = []  # shared objects that the current test has started


@contextmanager
def shared(name: str) -> Iterator[None]:
    """Count the time of the block separately, not as time of the test that runs it first."""
    started, inner = processor_seconds(), len(_shared)
    try:
        yield
    finally:
        within = sum(seconds for _, seconds in _shared[inner:])
        _shared.append((name, processor_seconds() - started - within))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    if fixturedef.scope == "function":
        return (yield)
    with shared(f"{fixturedef.baseid}: fixture {fixturedef.argname}"):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    _shared.clear()
    item.stash[STARTED] = processor_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        spent = processor_seconds() - item.stash[STARTED]
        spent -= sum(seconds for _, seconds in _shared)
        report.user_properties.append((PROPERTY, max(spent, 0.0)))
        report.user_properties.append((SHARED, list(_shared)))
    return report


def pytest_terminal_summary(terminalreporter, config):
    properties = {
        report.nodeid: dict(report.user_properties)
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
    }
    spent = {test: found[PROPERTY] for test, found in properties.items()}
    begun = [tuple(each) for found in properties.values() for each in found[SHARED]]
    most = config.getoption("durations") or REPORTED
    longest = list_longest(spent.items(), most)
    if not longest:
        return
    total = sum(spent.values()) + sum(seconds for _, seconds in begun)
    terminalreporter.section(f"longest tests by processor time, of {total:.0f} s in all")
    for test, seconds in longest:
        over = f"  over the limit of {LIMIT_SECONDS} s" if seconds > LIMIT_SECONDS else ""
        terminalreporter.line(f"{seconds:6.1f} s  {test}{over}")
    for name, seconds in list_longest(begun, most):
        terminalreporter.line(f"{seconds:6.1f} s  shared by several tests: {name}")


def list_longest(spent: Iterable[tuple[str, float]], most: int) -> list[tuple[str, float]]:
    """Return the entries that took longest, except for short ones."""
    longest = sorted(spent, key=lambda entry: entry[1], reverse=True)[:most]
    return [(name, seconds) for name, seconds in longest if seconds >= SHORTEST_SECONDS]


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
