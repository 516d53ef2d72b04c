"""The pytest plugin: fixtures with a TestSystem and a RecordingBus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from feedbus.testing import RecordingBus, TestSystem

OPTION = "feedbus_topology"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of pytest's configuration file that names the topology."""
    text = "the topology of the fixtures feedbus_system and feedbus_bus, relative to this file"
    parser.addini(OPTION, text, default="topology.toml")


def _topology(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini(OPTION))


@pytest.fixture
def feedbus_system(request: pytest.FixtureRequest) -> Iterator[TestSystem]:
    """A whole system in memory; each test gets a new one."""
    from feedbus.testing import TestSystem

    with TestSystem(_topology(request.config)) as system:
        yield system


@pytest.fixture
def feedbus_bus(request: pytest.FixtureRequest) -> RecordingBus:
    """A bus that records published messages, for tests of one handler."""
    from feedbus.testing import RecordingBus

    return RecordingBus(_topology(request.config))
