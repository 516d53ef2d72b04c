"""`feedbus down` without a supervisor: processes that do not end are killed."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

from feedbus import config
from feedbus.supervisor.client import Busy
from feedbus.supervisor.shutdown import stop
from tests.slot_holders import HOLD, python
from tests.stopped_processes import stop_and_wait

TOPOLOGY = """
name = "stops"
[exchanges]
jobs = { type = "fanout" }
[queues.one]
exchange = "jobs"
handler = "handle:one"
[queues.two]
exchange = "jobs"
handler = "handle:two"
"""


def test_processes_that_do_not_end_are_waited_for_at_the_same_time(tmp_path: Path) -> None:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    topology = config.load(tmp_path / "topology.toml", environ={}, import_handlers=False)
    waits: list[list[str]] = []

    def show(busy: list[Busy]) -> None:
        waits.append(sorted(one.name for one in busy))

    with ExitStack() as stack:
        started = []
        for name in ("one", "two"):
            process = stack.enter_context(python(HOLD, topology.var, name))
            assert process.stdout.readline() == "held\n"
            stop_and_wait(process.pid)
            started.append(process)
        assert stop(topology, within_seconds=3.0, progress=show)
        assert [process.wait() for process in started] == [-signal.SIGKILL] * 2
    assert waits[0] == ["one", "two"]
    assert not stop(topology)
