"""Skip a test if a server is missing, or let it fail if all servers are required.

conftest.py registers this module as a plugin of pytest. Where FEEDBUS_REQUIRE_SERVERS=1, every test
that is skipped, or fails as expected, is a failure, whatever skipped it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import NoReturn, TypeVar

import pytest

from servers import versions
from servers.versions import Version

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)

PROMETHEUS = "Prometheus is not installed: apt-get install prometheus"


REQUIRED = os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1"
UNWANTED = os.environ.get("FEEDBUS_SERVERS") == "none"  # as `make check` sets it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped where all is required."""
    return not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let no module be skipped as a whole where all is required."""
    return not_skipped((yield))


def not_skipped(report: Report) -> Report:
    """Return a report, as a failure if it reports a skip where all is required."""
    if REQUIRED and report.skipped:
        report.outcome = "failed"
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        report.longrepr = f"{reason} (FEEDBUS_REQUIRE_SERVERS=1 lets no test be skipped)"
    return report


def only_if(possible: bool, reason: str) -> pytest.MarkDecorator:
    """Mark tests that are skipped where they cannot run.

    Args:
        possible: whether they can run here.
        reason: why they cannot.

    """
    return pytest.mark.skipif(not possible, reason=reason)


def missing(reason: str) -> NoReturn:
    """Skip the test, because something is missing."""
    pytest.skip(reason)


def skip_where_unwanted() -> None:
    """Skip the test if no server may be started."""
    if UNWANTED:
        missing("FEEDBUS_SERVERS=none lets no server start")


def rabbitmq(beginning: str | None = None) -> Version:
    """Return the installed version that begins so; skip the test where there is none.

    Args:
        beginning: such as "3.10"; None for the first version that this run of the tests is to use.

    """
    skip_where_unwanted()
    wanted = beginning or versions.chosen()[0]
    found = versions.find(wanted)
    if found is None:
        missing(f"RabbitMQ {wanted} is not installed: sh servers/install.sh")
    return found
