"""What a test does where something is missing: skip on a laptop, fail where all is required."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

from servers import versions
from servers.versions import Version

PROMETHEUS = "Prometheus is not installed: apt-get install prometheus"


REQUIRED = os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1"
UNWANTED = os.environ.get("FEEDBUS_SERVERS") == "none"  # as `make check` sets it


def only_if(possible: bool, reason: str) -> pytest.MarkDecorator:
    """Mark tests that are skipped where they cannot run; they run, and fail, where all is required.

    Args:
        possible: whether they can run here.
        reason: why they cannot.

    """
    return pytest.mark.skipif(not possible and not REQUIRED, reason=reason)


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where FEEDBUS_REQUIRE_SERVERS=1."""
    if REQUIRED:
        pytest.fail(f"{reason} (FEEDBUS_REQUIRE_SERVERS=1 requires it)")
    pytest.skip(reason)


def skip_where_unwanted() -> None:
    """Skip the test where no server is to be started; fail it where all is required."""
    if UNWANTED:
        missing("FEEDBUS_SERVERS=none lets no server start")


def rabbitmq(beginning: str | None = None) -> Version:
    """Return the installed version that begins so; skip or fail the test where there is none.

    Args:
        beginning: such as "3.10"; None for the first version that this run of the tests is to use.

    """
    skip_where_unwanted()
    wanted = beginning or versions.chosen()[0]
    found = versions.find(wanted)
    if found is None:
        missing(f"RabbitMQ {wanted} is not installed: sh servers/install.sh")
    return found
