"""Publishing from a program: scripts, threads, forks and event loops."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import feedbus
from feedbus import config
from feedbus.bus.sender import Sender
from tests.projects import PATIENCE_SECONDS
from tests.systems import System

TOPOLOGY = """
name = "{name}"
[broker]
url = "{url}"
[exchanges]
work = {{ type = "direct" }}
[queues.work]
exchange = "work"
routing_keys = [""]
handler = "nowhere:work"
"""


@pytest.fixture(params=["embedded", "3"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a topology file whose broker has nothing of it yet."""
    url = f"sqlite:///{tmp_path}/broker.db"
    if request.param != "embedded":
        url = request.getfixturevalue("rabbitmq_nodes")(request.param).url
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY.format(name=f"connect-{os.urandom(4).hex()}", url=url))
    return path


def waiting(file: Path) -> int:
    """Return how many messages wait in the queue."""
    return System(config.load(file), store=None).ready()["work"]


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """Return a topology file whose broker cannot be reached."""
    path = tmp_path / "away.toml"
    path.write_text(TOPOLOGY.format(name="away", url="amqp://guest:guest@127.0.0.1:1//"))
    return path


def test_a_program_declares_what_is_missing_and_publishes(file) -> None:
    with feedbus.connect(str(file)) as bus:
        bus.publish("work", {"n": 1})
        assert bus.publish_many("work", [({"n": 2}, ""), ({"n": 3}, "")]) == 2
    assert waiting(file) == 3


@pytest.mark.parametrize("file", ["embedded"], indirect=True)
def test_a_bus_cannot_be_used_after_its_with_block(file) -> None:
    with feedbus.connect(file) as bus:
        bus.publish("work", {"n": 1})
    for publish in (
        lambda: bus.publish("work", {"n": 2}),
        lambda: bus.publish_many("work", [({"n": 2}, "")]),
        lambda: bus.publish_columns("work", {"n": [2]}, [""]),
        lambda: bus.transaction().__enter__(),
    ):
        with pytest.raises(feedbus.UsageError, match="its `with` block has ended"):
            publish()
    with bus:
        bus.publish("work", {"n": 3})

    async def late() -> None:
        async with await feedbus.connect_async(file) as other:
            await other.publish("work", {"n": 4})
        with pytest.raises(feedbus.UsageError, match="its `with` block has ended"):
            await other.publish("work", {"n": 5})

    asyncio.run(late())
    assert waiting(file) == 3


def test_the_environment_names_the_topology(file, monkeypatch) -> None:
    monkeypatch.setenv("FEEDBUS_TOPOLOGY", str(file))
    with feedbus.connect() as bus:
        bus.publish("work", {"n": 1})
    assert waiting(file) == 1


def test_a_forked_process_publishes_by_a_connection_of_its_own(file) -> None:
    with feedbus.connect(file) as bus:
        bus.publish("work", {"n": 0})
        bus._shared_sender._lock.acquire()  # as by another thread, which a fork does not have
        children = []
        for number in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    bus.publish("work", {"n": number})
                    bus.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
        bus._shared_sender._lock.release()
        before = bus._shared_sender._sender._connection
        bus.publish("work", {"n": 9})
        assert bus._shared_sender._sender._connection is before
    assert waiting(file) == 5


def test_threads_publish_by_one_bus(file) -> None:
    with feedbus.connect(file) as bus:
        threads = [
            threading.Thread(target=lambda: [bus.publish("work", {"n": n}) for n in range(10)])
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert waiting(file) == 50


def test_a_wrong_call_fails_alone_among_those_that_are_sent_together(file) -> None:
    with feedbus.connect(file) as bus:
        bus.publish("work", {"n": 0})
        bus._shared_sender._lock.acquire()
        failures: list[Exception] = []

        def publish(call: Callable[[], object]) -> None:
            try:
                call()
            except (TypeError, feedbus.UsageError) as error:
                failures.append(error)

        calls = [
            lambda: bus.publish("work", {"n": 1}),
            lambda: bus.publish_columns("work", {}, [None]),
            lambda: bus.publish("nowhere", {"n": 2}, key=""),
        ]
        threads = [threading.Thread(target=publish, args=[call]) for call in calls]
        for thread in threads:
            thread.start()
        while len(bus._shared_sender._unsent_requests) < 3:
            threading.Event().wait(0.01)
        bus._shared_sender._lock.release()
        for thread in threads:
            thread.join()
    assert {type(failure) for failure in failures} == {TypeError, feedbus.UsageError}
    assert waiting(file) == 2


def test_a_broker_that_is_away_longer_than_the_timeout_is_an_outage(away) -> None:
    with (
        feedbus.connect(away, timeout_seconds=0.2) as bus,
        pytest.raises(
            feedbus.BrokerOutage, match=r"127\.0\.0\.1:1.*; start the broker, or correct"
        ),
    ):
        bus.publish_many("work", [({"n": 1}, "")])


@pytest.mark.parametrize(
    "program",
    [
        "bus = feedbus.connect({file!r}); bus.publish('work', {{'n': 1}})",
        (
            "async def main():\n"
            "    bus = await feedbus.connect_async({file!r})\n"
            "    await bus.publish('work', {{'n': 1}})\n"
            "asyncio.run(main())"
        ),
    ],
)
def test_a_program_that_does_not_close_its_bus_ends(file, program) -> None:
    text = f"import asyncio, feedbus\n{program.format(file=str(file))}\n"
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert waiting(file) == 1


def test_a_program_ends_while_its_event_loop_bus_waits_for_a_broker(away) -> None:
    text = (
        "import asyncio, feedbus\n"
        "async def main():\n"
        f"    bus = await feedbus.connect_async({str(away)!r}, timeout_seconds=1000)\n"
        "    asyncio.create_task(bus.publish('work', {'n': 1}))\n"
        "    await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", text], timeout=PATIENCE_SECONDS, check=True)


@pytest.fixture
def sends(monkeypatch) -> Iterator[list[int]]:
    """Return how many messages each send had."""
    counts: list[int] = []
    send = Sender.send

    def counted(self, messages):
        messages = list(messages)
        counts.append(len(messages))
        return send(self, messages)

    monkeypatch.setattr(Sender, "send", counted)
    return counts


def test_tasks_that_publish_at_once_share_confirms(file, sends) -> None:
    async def main() -> None:
        async with await feedbus.connect_async(file) as bus:
            await bus.publish("work", {"n": 0})
            await asyncio.gather(*(bus.publish("work", {"n": n}) for n in range(100)))
            assert await bus.publish_many("work", (({"n": n}, "") for n in range(2_500))) == 2_500

    asyncio.run(main())
    assert waiting(file) == 2_601
    assert sum(sends[:-3]) == 101
    assert len(sends) < 20


def test_a_cancelled_publish_leaves_the_bus_usable(file) -> None:
    async def main() -> None:
        async with await feedbus.connect_async(file) as bus:
            await bus.publish("work", {"n": 0})
            bus._bus._shared_sender._lock.acquire()  # the broker does not answer
            slow = asyncio.create_task(bus.publish("work", {"n": 1}))
            await asyncio.sleep(0)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            bus._bus._shared_sender._lock.release()
            await bus.publish("work", {"n": 2})

    asyncio.run(main())
    assert waiting(file) in {2, 3}


def test_the_event_loop_goes_on_while_a_publish_waits_for_a_broker(away) -> None:
    async def main() -> int:
        turns = 0
        async with await feedbus.connect_async(away, timeout_seconds=0.3) as bus:
            publishing = asyncio.create_task(bus.publish("work", {"n": 1}))
            while not publishing.done():
                await asyncio.sleep(0)
                turns += 1
            with pytest.raises(feedbus.BrokerOutage):
                await publishing
        return turns

    assert asyncio.run(main()) > 10


def test_errors_of_a_task_are_its_own(file) -> None:
    async def main() -> list[object]:
        async with await feedbus.connect_async(file) as bus:
            return await asyncio.gather(
                bus.publish("work", {"n": 1}),
                bus.publish("nowhere", {"n": 1}),
                bus.publish("work", {"n": 1}, "unbound"),
                bus.publish("work", {"n": object()}),
                bus.publish("work", "n"),
                return_exceptions=True,
            )

    kinds = [type(each) for each in asyncio.run(main())]
    assert kinds == [
        type(None),
        feedbus.UsageError,
        feedbus.Unroutable,
        feedbus.UsageError,
        TypeError,
    ]
    assert waiting(file) == 1


def test_a_closed_bus_opens_again_in_another_event_loop(file) -> None:
    async def publish(bus: feedbus.AsyncBus) -> None:
        await bus.publish("work", {"n": 1})
        await bus.close()

    bus = asyncio.run(feedbus.connect_async(file))
    asyncio.run(publish(bus))
    asyncio.run(publish(bus))
    assert waiting(file) == 2


def test_a_forked_process_publishes_by_an_event_loop_of_its_own(file) -> None:
    async def publish(bus: feedbus.AsyncBus) -> None:
        await bus.publish("work", {"n": 1})

    bus = asyncio.run(feedbus.connect_async(file))
    asyncio.run(publish(bus))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            asyncio.run(publish(bus))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(publish(bus))
    asyncio.run(bus.close())
    assert waiting(file) == 3


def test_a_broker_in_a_misspelt_folder_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "topology.toml"
    url = f"sqlite:///{tmp_path}/misspelt/var/broker.db"
    path.write_text(TOPOLOGY.format(name="misspelt", url=url))
    with (
        feedbus.connect(path, timeout_seconds=0) as bus,
        pytest.raises(feedbus.BrokerOutage, match="cannot be created: no such file or directory"),
    ):
        bus.publish("work", {"n": 1})
    assert not (tmp_path / "misspelt").exists()
    path.write_text(TOPOLOGY.format(name="misspelt", url=url.replace("misspelt/", "")))
    with feedbus.connect(path) as bus:
        bus.publish("work", {"n": 1})
