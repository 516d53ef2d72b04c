"""Async resources: opened and closed in the loop of the handlers, and again when one has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import pytest

from feedbus import Outage, handler, resource
from feedbus.handling.resources import Resources
from feedbus.store.peewee import close_bound
from feedbus.testing import TestSystem
from tests.handlers_to_run import Numbered, topology_of
from tests.resources_to_open import (
    STEPS,
    Settings,
    client,
    needed,
    settings,  # noqa: F401 -- looked up in the module of the resource that needs it
)
from tests.small_topologies import queue
from tests.systems import System


@pytest.fixture(autouse=True)
def no_steps():
    STEPS.clear()


@resource
async def session(settings: Settings) -> AsyncIterator[asyncio.Queue[str]]:  # noqa: F811 -- its parameter
    task = asyncio.current_task()
    async with asyncio.timeout(60):  # which another task could not leave
        STEPS.append("open session")
        yield asyncio.Queue()
    STEPS.append("close session" if asyncio.current_task() is task else "another task")


@resource
async def number() -> int:
    await asyncio.sleep(0)
    return 7


@resource
async def absent() -> AsyncIterator[bytes]:
    for each in ():
        yield each


@handler(Numbered)
async def send_all(
    record: dict[str, int], session: asyncio.Queue[str], n: Annotated[int, number]
) -> None:
    await session.put(f"{record['n']} of {n}")
    STEPS.append(await session.get())


def test_async_resources_live_in_the_loop_of_the_handlers():
    with TestSystem(topology_of(f"{__name__}:send_all")) as system:
        for n in range(2):
            system.publish("work", {"n": n})
        system.run()
    assert STEPS == ["settings", "open session", "0 of 7", "1 of 7", "close session"]


@resource
async def cancelled() -> AsyncIterator[bytes]:
    raise asyncio.CancelledError
    yield b""


@resource
def exiting() -> bytes:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("opened", "reason"), [(cancelled, "CancelledError"), (exiting, "SystemExit: 3")]
)
def test_whatever_a_resource_raises_is_an_outage(opened, reason):
    resources = needed(opened)
    with pytest.raises(Outage, match=f"cannot be opened: {reason}"):
        resources.open()
    resources.close()


@resource
async def group() -> AsyncIterator[bytes]:
    async def fail() -> None:
        raise OSError

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        yield b""


def test_a_resource_whose_task_fails_is_closed_like_the_others(caplog):
    resources = needed(client, group)
    resources.open()
    resources.run(asyncio.sleep(0.001))
    resources.close()
    assert "the resource group" in caplog.text
    assert "OSError" in caplog.text
    assert STEPS[-1] == "close"


class Line:
    """A connection that is lost when somebody says so."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()


class Writer:
    """What writes to it."""

    def __init__(self, line: Line) -> None:
        self.line = line


@resource
async def line() -> AsyncIterator[Line]:
    found = Line()

    async def read() -> None:
        await found.lost.wait()
        raise ConnectionError

    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(read())
        STEPS.append("open line")
        yield found
        reader.cancel()


@resource
def writer(line: Line) -> Iterator[Writer]:
    STEPS.append("open writer")
    yield Writer(line)
    STEPS.append("close writer")


async def write(record: dict[str, int], writer: Writer) -> None:
    STEPS.append(f"{record['n']} over a {'lost' if writer.line.lost.is_set() else 'new'} line")
    if record["n"] == 0:
        writer.line.lost.set()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_resource_that_ends_by_itself_is_opened_again_with_what_asks_for_it(
    concurrency, tmp_path, caplog
):
    options = {"store": False, "concurrency": concurrency, "order_by": True}
    system = System.at(tmp_path, queue(**options))
    system.publish(range(2))
    system.run(write)
    close_bound()
    opened = ["open line", "open writer"]
    handled = ["0 over a new line", "close writer", *opened, "1 over a new line"]
    assert [*opened, *handled, "close writer"] == STEPS
    assert "the resource line" in caplog.text
    assert caplog.text.count("has ended by itself; feedbus opens it again") == 1
    assert "resource_not_closed" not in caplog.text
    assert "ConnectionError" in caplog.text


BREAKING: list[Resources] = []


@resource
def breaker(line: Line) -> Iterator[list[Resources]]:
    """Break the line while the resources are closed, before the line is closed."""
    yield BREAKING
    while BREAKING:
        resources = BREAKING.pop()
        line.lost.set()
        resources.run(asyncio.sleep(0.05))


def test_a_resource_that_ends_while_the_resources_are_closed_is_closed_only_once(caplog):
    resources = needed(breaker)
    resources.open()
    BREAKING.append(resources)
    resources.close_at_next_open(Outage("the server has gone"))
    resources.open()
    assert resources.ready
    resources.open()
    assert STEPS == ["open line", "open line"]
    assert caplog.text.count("has ended by itself") == 1
    resources.close()


def test_an_async_generator_that_yields_nothing_is_no_resource():
    resources = needed(absent)
    with pytest.raises(Outage, match=r"absent .* it has yielded no value"):
        resources.open()
    resources.close()
