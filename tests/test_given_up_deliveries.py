"""A delivery whose handling ends in an outage is not acknowledged together with later ones."""

from __future__ import annotations

from typing import Any

import pytest

from feedbus.errors import Outage
from feedbus.runner.crash_guard import CrashGuard
from servers import versions
from tests.projects import wait_until
from tests.small_topologies import queue
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])

MODES: dict[str, dict[str, Any]] = {
    "single": {},
    "once": {"once": True},
    "concurrent": {"concurrency": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_delivery_that_a_consumer_gives_up_is_delivered_again(make, mode, monkeypatch):
    system = make(queue(prefetch=10, **MODES[mode]))
    system.publish([1, 2, 3])
    calls: list[int] = []
    is_assigned = [True]

    def assigned() -> bool:
        # Another host has the queue for a moment: when the outage of the first call is over.
        here, is_assigned[0] = is_assigned[0], True
        return here

    def handle(record: dict[str, int], _bus: Any) -> None:
        calls.append(record["n"])
        if len(calls) == 1:
            is_assigned[0] = False
            msg = "the service does not answer"
            raise Outage(msg)

    # The concurrent mode handles such messages alone.
    monkeypatch.setattr(CrashGuard, "is_suspected", lambda *_: mode == "concurrent")
    with system.running(handle, assigned=assigned):
        wait_until(lambda: sorted(calls[1:]) == [1, 2, 3])
    assert system.ready() == {"work": 0}
