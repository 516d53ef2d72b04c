"""Async handlers: run in the event loop of their process, with all that sync ones have."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from feedbus import (
    Bus,
    Call,
    Message,
    Middleware,
    Outage,
    Records,
    Reject,
    Retry,
    handler,
)
from feedbus.bus.batch_bus import BatchBus
from feedbus.errors import UsageError
from feedbus.handling.event_loop import HandlerLoop
from feedbus.testing import TestSystem
from feedbus.topology import Batch
from tests.handlers_to_run import Numbered, topology_of
from tests.projects import PATIENCE_SECONDS, Project, wait_until

STEPS: list[object] = []
AWAY: list[str] = []


SILENT = "Silent, whose text raised KeyError"


class Silent(Reject):
    """An exception whose text cannot be read."""

    def __str__(self) -> str:
        raise KeyError


@handler(Numbered)
async def take(record: dict[str, int], message: Message, bus: Bus) -> None:
    await asyncio.sleep(0)
    STEPS.append((record["n"], message.attempt))
    if AWAY:
        raise Outage(AWAY.pop())
    raised = {1: Reject("one"), 2: ValueError("two"), 3: Retry("three"), 4: SystemExit(4)}
    raised |= {5: asyncio.CancelledError(), 6: Silent("")}
    if record["n"] in raised:
        raise raised[record["n"]]
    bus.publish("undone", {"n": record["n"]}, key="done")


@handler(Numbered, batch=True)
async def take_all(records: Records) -> None:
    await asyncio.sleep(0)
    STEPS.append(records.column("n"))
    records.where("n", {1}).reject("one")
    records.remaining().publish("undone", key="done", columns={"n": "n"})


class Sync(Middleware):
    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        STEPS.append(f"sync {call.records}")
        yield


class Async(Middleware):
    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        STEPS.append(f"async {call.records}")
        yield


@pytest.fixture(autouse=True)
def no_steps():
    STEPS.clear()
    AWAY.clear()


def test_it_is_awaited_and_its_verdicts_are_those_of_any_handler():
    with TestSystem(topology_of(f"{__name__}:take")) as system:
        for n in range(7):
            system.publish("work", {"n": n})
        system.run()
        reasons = {each.payload["n"]: each.reason for each in system.dead_letters()}
        said = ["one", "ValueError: two", "three", "SystemExit: 4", "CancelledError", SILENT]
        assert reasons == dict(enumerate(said, 1))
        assert [each.payload for each in system.published("undone")] == [{"n": 0}]
        assert [type(each.error).__name__ for each in system.handled("work")][:3] == [
            "NoneType",
            "Reject",
            "ValueError",
        ]
    assert STEPS[:7] == [(n, 1) for n in range(7)]
    assert sorted(STEPS[7:]) == [(2, 2), (3, 2), (4, 2), (5, 2)]


def test_an_outage_holds_it_too():
    AWAY.append("the mail server is unavailable")
    with TestSystem(topology_of(f"{__name__}:take")) as system:
        system.publish("work", {"n": 0})
        with pytest.raises(Outage, match="the mail server is unavailable"):
            system.run()
        system.run()
        assert (system.dead_letters(), len(system.published("undone"))) == ([], 1)
    assert STEPS == [(0, 1), (0, 1)]


def test_a_batch_handler_may_be_async_within_middleware_of_both_kinds():
    middleware = (f"{__name__}:Sync", f"{__name__}:Async")
    topology = topology_of(f"{__name__}:take_all", middleware=(middleware[0],), batch=Batch(10))
    with TestSystem(topology) as system:
        system.bus.publish_many("work", [({"n": n}, "") for n in range(3)])
        system.run()
        assert [each.reason for each in system.dead_letters()] == ["one"]
        assert [each.payload["n"] for each in system.published("undone")] == [0, 2]
    assert STEPS == ["sync 3", [0, 1, 2], "sync 1", "sync 1"]


def test_what_a_handler_has_started_goes_on_and_is_cancelled_at_the_end():
    loop, seen, going = HandlerLoop(), [], threading.Event()

    async def tick() -> None:
        try:
            while True:
                going.set()
                await asyncio.sleep(0.001)
        finally:
            seen.append("cancelled")

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(tick())

    loop.run(start())
    going.clear()
    assert going.wait(PATIENCE_SECONDS)
    loop.close()
    assert seen == ["cancelled"]


@pytest.mark.parametrize("ending", ["raise", "stop"])
def test_the_loop_goes_on_when_a_task_ends_or_stops_it(ending, caplog):
    loop = HandlerLoop()

    async def end() -> None:
        if ending == "raise":
            raise SystemExit
        asyncio.get_running_loop().stop()

    async def start() -> int:
        started = asyncio.create_task(end())
        await asyncio.wait([started])
        started.exception()  # seen, so that nothing more is logged
        return 1

    assert [loop.run(start()), loop.run(start())] == [1, 1]
    loop.close()
    assert [record.name for record in caplog.records] == ["feedbus.handling.event_loop"] * 2


@handler(Numbered)
async def publish_late(record: dict[str, int], bus: Bus) -> None:
    async def later(next_message: asyncio.Event) -> None:
        await next_message.wait()
        bus.publish("undone", record, key="done")

    if record["n"] == 0:
        event = asyncio.Event()
        STEPS.extend((event, asyncio.create_task(later(event))))
        return
    bus.publish("undone", record, key="done")
    event, task = STEPS
    event.set()
    await asyncio.wait([task])
    STEPS.append(str(task.exception()))


def test_what_a_task_publishes_after_its_handler_is_refused_and_not_lost_silently():
    with TestSystem(topology_of(f"{__name__}:publish_late")) as system:
        for n in range(2):
            system.publish("work", {"n": n})
        system.run()
        assert [each.payload for each in system.published("undone")] == [{"n": 1}]
    assert STEPS[-1].startswith("the handler has returned, so this message would be lost")


def test_a_call_that_blocks_the_loop_is_logged_once_with_its_line(caplog, monkeypatch):
    monkeypatch.setattr("feedbus.handling.event_loop.CHECK_SECONDS", 0.01)
    monkeypatch.setattr("feedbus.handling.event_loop.BLOCKED_SECONDS", 0.02)
    blocked: list[float] = []
    loop, line = HandlerLoop(blocked.append), 0

    def found() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [each for each in messages if f"{__file__}:{line}; await the slow call" in each]

    async def block(until: Callable[[], object]) -> None:
        while not until():
            time.sleep(0.001)  # noqa: ASYNC251 -- what is to be found

    line = block.__code__.co_firstlineno + 2
    loop.run(block(found))
    counted = len(blocked)
    loop.run(block(lambda: len(blocked) > counted))  # counted each time, though logged once
    loop.close()
    assert len(found()) == 1
    assert "time.sleep(0.001)" in found()[0]
    assert all(0 < seconds < PATIENCE_SECONDS for seconds in blocked)


BODY = """\
await asyncio.sleep(0.3)
note(f"handled-{n}")
"""


def test_sigterm_lets_what_has_begun_finish(tmp_path):
    project = Project.at(tmp_path, f'note(f"begins-{{n}}")\n{BODY}')
    module, topology = tmp_path / "small_handlers.py", tmp_path / "topology.toml"
    text = module.read_text().replace("def work", "async def work")
    module.write_text(f"import asyncio\n{text}")
    text = topology.read_text().replace('[store]\nurl = "sqlite:///var/store.db"\n', "")
    topology.write_text(text)
    project.publish(1, 2)
    process = project.start("run", "work")
    wait_until(lambda: "begins-1" in project.seen())
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdout.close()
    assert project.seen() == ["begins-1", "handled-1"]


def test_what_records_publish_after_their_handler_is_refused():
    records, collected = Records.of([{"n": 1}]), []
    bus = BatchBus(records, lambda *published: collected.append(published))
    records.publish("undone", key="done", columns={"n": "n"})
    bus.flush()
    with pytest.raises(UsageError, match="the handler has returned"):
        records.publish("undone", key="done", columns={"n": "n"})
    assert len(collected) == 1
