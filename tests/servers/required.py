"""What to do where a server is missing: skip on a laptop, fail where all are required, as in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

RABBITMQ = "RabbitMQ is not installed: apt-get install rabbitmq-server"
PROMETHEUS = "Prometheus is not installed: apt-get install prometheus"


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where FEEDBUS_REQUIRE_SERVERS=1: the one place that decides."""
    if os.environ.get("FEEDBUS_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{reason} (FEEDBUS_REQUIRE_SERVERS=1 requires it)")
    pytest.skip(reason)
