"""Servers that tests share; each is private, on loopback, and ended with the session."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from types import FunctionType

import psycopg  # noqa: F401 -- before it is hidden from the processes of the tests
import pytest
from hypothesis import HealthCheck, settings

from tests import processor_time, required_servers, untracked_files
from tests.handler_calls import author, readers  # noqa: F401 -- fixtures
from tests.server_fixtures import (  # noqa: F401 -- fixtures
    any_postgres,
    any_rabbitmq,
    empty_store_url,
    postgres,
    postgres_servers,
    rabbitmq,
    rabbitmq4,
    rabbitmq_nodes,
    store_url,
)

STARTS_PROCESSES = {"Project", "subprocess"}
# The fixtures that start servers, and `make`, which creates systems on one of them.
SERVERS = {"rabbitmq_nodes", "postgres_servers", "make"}

# How long an example takes depends on what else the machine does.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# What a shell starts in the background ignores SIGINT, and what nohup starts ignores SIGHUP; so
# would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _environment_of_a_terminal_is_not_passed_on() -> None:
    """Let the programs that tests start show the same in CI, and under any settings of colours."""
    for name in ("CI", "BUILD_NUMBER", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "COLUMNS"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _no_wait_for_new_queues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rings be used at once; tests/integration/test_killed_brokers.py is about the wait."""
    monkeypatch.setattr("feedbus.broker.declarations.queue_written_seconds", lambda _: 0.0)


@pytest.fixture(autouse=True)
def _close_new_stores() -> Iterator[None]:
    """Close the peewee stores that a test has left open: the next test may use another file."""
    if "feedbus.store.peewee.store" not in sys.modules:
        yield
        return
    from feedbus.store.peewee.store import _models

    earlier = [*_models.stores]
    yield
    for each in [*_models.stores]:
        if each not in earlier:
            each.close()


def pytest_configure(config):
    if not config.getoption("numprocesses", None):  # the workers import psycopg themselves
        # peewee imports psycopg 3 where it is installed, which takes a third of the processor time
        # of a command's start. No process that a test starts uses it.
        os.environ["PSYCOPG_IMPL"] = "none"
    config.pluginmanager.register(processor_time)
    config.pluginmanager.register(required_servers)
    config.pluginmanager.register(untracked_files)


def pytest_collection_modifyitems(items):
    """Mark the tests that start processes, and put the files with servers or processes first.

    Such a file can take minutes. If short files are the last ones, all workers end at the same
    time.
    """
    long_files = set()
    for item in items:
        starts = starts_processes(getattr(item, "function", None), set())
        if starts:
            item.add_marker(pytest.mark.processes)
        if starts or not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            long_files.add(item.path)
    items.sort(key=lambda item: item.path not in long_files)


def pytest_collection_finish():
    """Leave the collected tests out of later garbage collections, which took 6 % of all time."""
    gc.collect()
    gc.freeze()


def starts_processes(function: object, seen: set[str]) -> bool:
    """Whether a function of the tests, or one that it calls, names what starts processes."""
    called = inspect.unwrap(function) if callable(function) else None
    if not isinstance(called, FunctionType) or not called.__module__.startswith("tests."):
        return False
    names = set(called.__code__.co_names) - seen
    seen |= names
    return not STARTS_PROCESSES.isdisjoint(names) or any(
        starts_processes(called.__globals__.get(name), seen) for name in names
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Escape what UTF-8 does not have: several workers exchange captured logs as UTF-8."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report
