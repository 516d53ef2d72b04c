"""Errors of several publishes of an AsyncBus that are sent together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import feedbus
from feedbus.bus import LiveBus
from feedbus.bus.publish_requests import Request
from tests.projects import PATIENCE_SECONDS
from tests.small_topologies import queue
from tests.systems import System


def test_an_unexpected_error_is_raised_only_for_publishes_that_were_not_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.at(tmp_path, queue(), stored=False)
    send, error = LiveBus.send_together, RuntimeError("unexpected")
    is_sending, may_send = threading.Event(), threading.Event()

    def send_one(self: LiveBus, requests: Sequence[Request]) -> None:
        is_sending.set()
        assert may_send.wait(PATIENCE_SECONDS)
        send(self, requests[:1])
        if len(requests) > 1:
            raise error

    monkeypatch.setattr(LiveBus, "send_together", send_one)

    async def publish() -> list[Any]:
        async with await feedbus.connect_async(system.topology) as bus:
            first = asyncio.create_task(bus.publish("work", {"n": 0}))
            await asyncio.to_thread(is_sending.wait, PATIENCE_SECONDS)
            others = [
                asyncio.create_task(bus.publish("work", {"n": number})) for number in (1, 2, 3)
            ]
            await asyncio.sleep(0)  # the tasks begin, and their jobs wait for the thread
            may_send.set()
            return await asyncio.gather(first, *others, return_exceptions=True)

    assert asyncio.run(publish()) == [None, None, error, error]
    system.run(system.note)
    assert system.seen == [0, 1]
