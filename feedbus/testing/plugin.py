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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> None:
    """Leave the calls inside of feedbus out of the traceback of an error of feedbus.

    pytest calls this function after each part of a test. Without it, the source of feedbus would
    hide the one line that says what is wrong, for example in the topology.
    """
    if call.excinfo is None:
        return
    from feedbus.errors import FeedbusError
    from feedbus.shortened_tracebacks import user_traceback

    error = call.excinfo.value
    if isinstance(error, FeedbusError):
        shown = error.with_traceback(user_traceback(error))
        call.excinfo = pytest.ExceptionInfo.from_exception(shown)


def _topology(config: pytest.Config) -> Path:
    return config.rootpath / str(config.getini(OPTION))


@pytest.fixture
def feedbus_system(request: pytest.FixtureRequest) -> Iterator[TestSystem]:
    """A TestSystem: a whole system in memory. Each test gets a new one, closed after the test.

    Its topology is the option `feedbus_topology` of pytest's configuration file.
    """
    from feedbus.errors import FeedbusError
    from feedbus.testing import TestSystem

    try:
        made = TestSystem(_topology(request.config))
    except FeedbusError as error:  # no call of the project is in its traceback
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    with made as system:
        yield system


@pytest.fixture
def feedbus_bus(request: pytest.FixtureRequest) -> RecordingBus:
    """A RecordingBus: a bus that records published messages, for tests of one handler.

    Its topology is the option `feedbus_topology` of pytest's configuration file. Each test gets a
    new bus.
    """
    from feedbus.errors import FeedbusError
    from feedbus.testing import RecordingBus

    try:
        return RecordingBus(_topology(request.config))
    except FeedbusError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
