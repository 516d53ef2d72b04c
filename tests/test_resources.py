"""Resources: opened once a process, given to handlers by their type, closed at the end."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import pytest

from feedbus import Outage, handler, resource
from feedbus.errors import UsageError
from feedbus.handling.parameters import Parameters, Resource
from feedbus.handling.resources import Resources
from feedbus.store.peewee import close_bound
from feedbus.testing import TestSystem
from feedbus.topology import Exchange, Queue, Topology
from feedbus.urls import parse_broker_url
from tests.handlers_to_run import Numbered
from tests.projects import PATIENCE_SECONDS, Project, wait_until
from tests.systems import System, queue

STEPS: list[str] = []
FAILURES: list[Exception] = []


class Settings:
    """What clients are made by."""

    def __init__(self, name: str) -> None:
        self.name = name


class Client:
    """What handlers call."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.name

    def send(self, n: int) -> None:
        STEPS.append(f"{self.name} sends {n}")


@resource
def settings(topology: Topology) -> Settings:
    STEPS.append("settings")
    return Settings(topology.name)


@resource
def client(settings: Settings) -> Iterator[Client]:
    if FAILURES:
        raise FAILURES.pop()
    STEPS.append("open")
    yield Client(settings)
    STEPS.append("close")


@handler(Numbered)
def send(record: dict[str, int], client: Client) -> None:
    client.send(record["n"])


@handler(Numbered)
def ignore(record: dict[str, int]) -> None:
    STEPS.append("ignored")


@pytest.fixture(autouse=True)
def no_steps():
    STEPS.clear()
    FAILURES.clear()


def topology(*functions: str) -> Topology:
    return Topology(
        name="ours",
        path=Path("topology.toml").absolute(),
        broker_url=parse_broker_url("sqlite:///var/broker.db"),
        exchanges={"work": Exchange("work", "fanout")},
        queues={name: Queue(name, "work", f"{__name__}:{name}") for name in functions},
    )


def test_a_resource_is_opened_once_with_what_it_asks_for_and_closed_at_the_end():
    with TestSystem(topology("send")) as system:
        for n in range(2):
            system.publish("work", {"n": n})
        assert STEPS == []
        system.run()
        assert STEPS == ["settings", "open", "ours sends 0", "ours sends 1"]
    assert STEPS[4:] == ["close"]


def test_a_resource_that_nobody_asks_for_is_not_opened():
    with TestSystem(topology("ignore")) as system:
        system.publish("work", {"n": 1})
        system.run()
        with pytest.raises(
            UsageError, match=r"no handler or middleware needs the resource client \(.*py:\d+\)"
        ):
            system.override(client, None)
    assert STEPS == ["ignored"]


class FakeClient:
    def send(self, n: int) -> None:
        STEPS.append(f"fake {n}")


def test_a_test_replaces_a_resource_before_or_after_it_is_opened():
    with TestSystem(topology("send")) as system:
        system.override(client, FakeClient())
        system.publish("work", {"n": 1})
        system.run()
    assert STEPS == ["fake 1"]
    STEPS.clear()
    with TestSystem(topology("send")) as system:
        system.publish("work", {"n": 1})
        system.run()
        system.override(client, FakeClient())
        system.publish("work", {"n": 2})
        system.run()
    assert STEPS == ["settings", "open", "ours sends 1", "fake 2", "close"]


def test_only_a_resource_can_be_replaced():
    with (
        TestSystem(topology("send")) as system,
        pytest.raises(TypeError, match=r"expected a function under @feedbus.resource, got <class"),
    ):
        system.override(Client, FakeClient())


def test_a_resource_that_fails_to_open_is_an_outage_and_loses_no_message():
    FAILURES.append(OSError("no route to host"))
    with TestSystem(topology("send")) as system:
        system.publish("work", {"n": 1})
        place = rf"\({__file__}:\d+\)"
        with pytest.raises(
            Outage, match=f"resource client {place} cannot be opened: OSError: no route to host"
        ):
            system.run()
        assert (system.retries(), system.dead_letters()) == (0, [])
        system.run()
    assert STEPS == ["settings", "open", "ours sends 1", "close"]


@resource
def unclosable() -> Iterator[int]:
    yield 1
    raise OSError


@resource
def twice() -> Iterator[float]:
    yield 1.0
    yield 2.0


@resource
def never() -> Iterator[str]:
    yield from ()


def needed(*functions):
    resources = Resources(topology("send"))
    resources.need(Parameters(tuple(map(Resource, functions))))
    return resources


def test_what_cannot_be_closed_is_logged_and_the_others_are_closed(caplog):
    resources = needed(client, unclosable, twice)
    resources.open()
    with caplog.at_level(logging.ERROR):
        resources.close()
    assert [record.msg.message.partition(" (")[0] for record in caplog.records] == [
        "the resource twice",
        "the resource unclosable",
    ]
    assert STEPS[-1] == "close"


def test_a_generator_that_yields_nothing_is_no_resource():
    with pytest.raises(Outage, match=r"never .* cannot be opened: it yields nothing"):
        needed(never).open()


@resource
async def session(settings: Settings) -> AsyncIterator[asyncio.Queue[str]]:
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
    with TestSystem(topology("send_all")) as system:
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
    assert "ended by itself; feedbus will open it again" in caplog.text
    assert "ConnectionError" in caplog.text


def test_an_async_generator_that_yields_nothing_is_no_resource():
    resources = needed(absent)
    with pytest.raises(Outage, match=r"absent .* it yields nothing"):
        resources.open()
    resources.close()


BODY = """\
client.append(n)
note(f"handles-{sum(client)}")
"""
CLIENT = """
from collections.abc import Iterator

from feedbus import resource

@resource
def client() -> Iterator[list]:
    if not os.path.exists({ready!r}):
        raise OSError("not yet")
    note("opens")
    yield []
    note("closes")
"""


def test_a_process_holds_until_its_resource_opens_and_closes_it_on_sigterm(tmp_path):
    project, ready = Project.at(tmp_path, BODY), tmp_path / "ready"
    module = tmp_path / "small_handlers.py"
    text = module.read_text().replace("message, bus)", "message, client: list)")
    before, mark, after = text.partition("@handler")
    module.write_text(before + CLIENT.format(ready=str(ready)) + mark + after)
    project.publish(1, 2)
    process = project.start("run", "work")
    said = ""
    while "holds" not in said:
        said = process.stdout.readline()
    assert "resource client (" in said
    assert "cannot be opened: OSError: not yet" in said
    ready.touch()
    wait_until(lambda: len(project.seen()) == 3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdout.close()
    assert project.seen() == ["opens", "handles-1", "handles-3", "closes"]
    assert project.dead() == []
