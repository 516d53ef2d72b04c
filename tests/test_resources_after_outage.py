"""A handler that raises Outage gets new resources, because a connection may be broken."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from feedbus import Outage, Reject, handler, resource
from feedbus.errors import BrokerOutage, StoreOutage
from feedbus.handling.middleware import Middleware
from feedbus.testing import TestSystem
from tests.handlers_to_run import Numbered, topology_of
from tests.small_topologies import queue
from tests.systems import System

AWAY = "the mail server does not answer"
UNWANTED = "unwanted"
STEPS: list[str] = []
FAILURES: list[Exception] = []  # raised when the connection is opened


class Connection:
    """A connection that breaks when the server is restarted."""

    def __init__(self) -> None:
        self.is_broken = False

    def send(self, text: str) -> None:
        if self.is_broken:
            raise Outage(AWAY)
        STEPS.append(text)


class AsyncConnection(Connection):
    """A connection of async handlers."""


class Mailbox:
    """An object that needs the connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection


@resource
def connection() -> Iterator[Connection]:
    if FAILURES:
        raise FAILURES.pop()
    STEPS.append("open")
    opened = Connection()
    yield opened
    STEPS.append("close")
    if opened.is_broken:
        raise BrokenPipeError


@resource
def mailbox(connection: Connection) -> Mailbox:
    return Mailbox(connection)


@resource
async def async_connection() -> AsyncIterator[AsyncConnection]:
    STEPS.append("open")
    yield AsyncConnection()
    STEPS.append("close")


@handler(Numbered)
def send(record: dict[str, int], mailbox: Mailbox) -> None:
    connection = mailbox.connection
    if record["n"] == 1 and STEPS.count("open") == 1:  # the server was restarted
        connection.is_broken = True
    connection.send(f"send {record['n']}")


@handler(Numbered)
async def send_async(record: dict[str, int], connection: AsyncConnection) -> None:
    await asyncio.sleep(0)
    send(record, Mailbox(connection))


@handler(Numbered)
def reject(record: dict[str, int]) -> None:
    raise Reject(UNWANTED)


def send_dead(record: dict[str, int], mailbox: Mailbox) -> None:
    send(record, mailbox)


@pytest.fixture(autouse=True)
def no_steps() -> None:
    STEPS.clear()
    FAILURES.clear()


MODES: dict[str, dict[str, Any]] = {
    "batch": {},
    "group": {"store": False},
    "concurrent": {"store": False, "concurrency": 2, "order_by": True},
}


@pytest.mark.parametrize(
    ("mode", "function"),
    [*((mode, send) for mode in MODES), ("group", send_async), ("concurrent", send_async)],
)
def test_a_broken_resource_is_opened_again_before_the_next_try(function, mode, tmp_path, caplog):
    options = MODES[mode]
    system = System.at(tmp_path, queue(**options), stored=options.get("store", True))
    system.publish([0, 1, 2])
    with caplog.at_level(logging.WARNING):
        system.run(function, max_messages=3)
    assert STEPS == ["open", "send 0", "close", "open", "send 1", "send 2", "close"]
    assert system.ready() == {"work": 0}
    assert system.dead() == []
    if function is send:
        assert "could not be closed after an outage; feedbus opens it again" in caplog.text
        assert "BrokenPipeError" in caplog.text


@pytest.mark.parametrize("mode", MODES)
def test_the_consumer_holds_while_the_resource_cannot_be_opened_again(mode, tmp_path):
    options = MODES[mode]
    system = System.at(tmp_path, queue(**options), stored=options.get("store", True))
    system.publish([0, 1])
    reasons: list[str] = []

    def on_hold(reason: str) -> None:
        reasons.append(reason)
        if reason == AWAY:
            FAILURES[:] = [OSError("no route to host")] * 2

    system.run(send, on_hold=on_hold, max_messages=2, idle_seconds=30.0)
    assert STEPS == ["open", "send 0", "close", "open", "send 1", "close"]
    away, closed, continues = reasons
    assert away == AWAY
    assert closed.endswith("cannot be opened: OSError: no route to host")
    assert continues == ""


@pytest.mark.parametrize("mode", MODES)
def test_a_dead_handler_gets_new_resources_too(mode, tmp_path):
    options = {**MODES[mode], "dead_handler": f"{__name__}:send_dead"}
    system = System.at(tmp_path, queue(**options), stored=options.get("store", True))
    system.publish([1])
    system.run(reject)
    assert STEPS == ["open", "close", "open", "send 1", "close"]
    assert [letter.reason for letter in system.dead()] == [UNWANTED]


def test_a_resource_stays_open_while_another_call_uses_it(tmp_path):
    used = threading.Event()

    @handler(Numbered)
    def slow(record: dict[str, int], mailbox: Mailbox) -> None:
        if record["n"] == 0 and not used.is_set():
            used.wait(10)
            mailbox.connection.send("slow")
        elif STEPS.count("open") == 1:
            threading.Timer(0.5, used.set).start()
            raise Outage(AWAY)

    system = System.at(tmp_path, queue(store=False, concurrency=2, order_by=True), stored=False)
    for number in range(2):
        system.publish([number], key="")
    system.run(slow)
    assert STEPS == ["open", "slow", "close", "open", "close"]


@pytest.mark.parametrize("kind", [BrokerOutage, StoreOutage])
def test_resources_stay_open_during_an_outage_of_the_broker_or_store(kind, tmp_path):
    errors = [kind("it does not answer")]

    @handler(Numbered)
    def take(record: dict[str, int], mailbox: Mailbox) -> None:
        if errors:
            raise errors.pop()
        mailbox.connection.send("sent")

    system = System.at(tmp_path, queue())
    system.publish([0])
    system.run(take)
    assert STEPS == ["open", "sent", "close"]


class Counting(Middleware):
    """A middleware that needs no resource."""

    def __init__(self) -> None:
        STEPS.append("middleware")


class Logging(Middleware):
    """A middleware that needs the resource."""

    def __init__(self, mailbox: Mailbox) -> None:
        STEPS.append(f"middleware with a {type(mailbox).__name__}")


def test_a_test_keeps_its_replacements_and_a_middleware_its_object():
    fake = Connection()
    fake.is_broken = True
    middleware = (f"{__name__}:Counting", f"{__name__}:Logging")
    topology = topology_of(f"{__name__}:send", middleware=middleware)
    with TestSystem(topology) as system:
        system.override(connection, fake)
        system.publish("work", {"n": 0})
        with pytest.raises(Outage):
            system.run()
        fake.is_broken = False
        system.run()
    created = "middleware with a Mailbox"
    assert ["middleware", created, created, "send 0"] == STEPS
