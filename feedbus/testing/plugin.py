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
    """Add the option `feedbus_topology` of pytest's configuration file; pytest calls this function.

    The option is the path of the topology, relative to the configuration file; "topology.toml" by
    default.
    """
    text = "the topology of the fixtures feedbus_system and feedbus_bus, relative to this file"
    parser.addini(OPTION, text, default="topology.toml")


def _topology(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini(OPTION))


@pytest.fixture
def feedbus_system(request: pytest.FixtureRequest) -> Iterator[TestSystem]:
    """A TestSystem: a whole system in memory. Each test gets a new one, closed after the test.

    Its topology is the option `feedbus_topology` of pytest's configuration file.
    """
    from feedbus.testing import TestSystem

    with TestSystem(_topology(request.config)) as system:
        yield system


@pytest.fixture
def feedbus_bus(request: pytest.FixtureRequest) -> RecordingBus:
    """A RecordingBus: a bus that records published messages, for tests of one handler.

    Its topology is the option `feedbus_topology` of pytest's configuration file. Each test gets a
    new bus.
    """
    from feedbus.testing import RecordingBus

    return RecordingBus(_topology(request.config))
