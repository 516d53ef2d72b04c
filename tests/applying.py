"""Apply topologies to systems, and read their messages afterwards."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from feedbus import broker
from feedbus.apply import apply, exclusive
from feedbus.broker_names import Names
from feedbus.generations import switch, topology_setup
from feedbus.plan import Plan
from feedbus.plan.planning import make_plan
from feedbus.records import Records
from feedbus.topology import RetryPolicy, Topology
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.systems import System, publish_confirmed

KEYS = [str(key) for key in range(20)]
WAITING = RetryPolicy((600.0,), "dead-letter")


class Killed(BaseException):
    """Represents the end of the process."""


def switch_killed(topology: Topology, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch, and be killed at a step."""

    def end(code: int) -> None:
        assert code == switch.EXIT_CODE
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", end)
        patch.setenv(switch.EXIT_AT, step)
        with pytest.raises(Killed):
            topology_setup.set_up(topology)


def carry_out(topology: Topology, *doomed: str) -> tuple[Plan, bool, list[str]]:
    """Apply a topology while nothing runs; return the plan, whether it is done, and the output."""
    said: list[str] = []
    with exclusive(topology):
        plan = make_plan(topology, None, delete_nonempty=doomed, predict=False)
        done = apply(
            topology, plan, None, wait=True, report=said.append, progress=lambda _left: None
        )
    return plan, done, said


def nothing_to_do(topology: Topology) -> bool:
    return make_plan(topology, None, predict=False).empty


def killed_at(step: str, work: Callable[[], object]) -> bool:
    """Call a function in a process that ends at a step; return whether it reached the step."""
    pid = os.fork()
    if pid == 0:
        try:
            os.environ[switch.EXIT_AT] = step
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) == switch.EXIT_CODE


def consume_ring(topology: Topology, each: int) -> dict[str, list[int]]:
    """Run every shard at once until each key was handled so often; return the numbers in order."""
    seen: dict[str, list[int]] = {key: [] for key in KEYS}
    lock, over = threading.Lock(), threading.Event()

    def collect(records: Records, _bus) -> None:
        with lock:
            for row in records:
                seen[row["text"]].append(row["n"])

    def consume(name: str) -> None:
        while not over.is_set():
            System(topology).run(collect, name, batch=True, idle_seconds=0.5)

    members = [name for name, _ in topology.generation("ring").members]
    threads = [threading.Thread(target=consume, args=(name,)) for name in members]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: sum(map(len, seen.values())) >= each * len(KEYS))
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return seen


def consume_work(topology: Topology, count: int) -> list[int]:
    """Run the queue "work" until so many messages were handled; return their numbers in order."""
    system = System(topology)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(system.seen) < count and time.monotonic() < deadline:
        system.run(system.note, idle_seconds=0.5)
    return system.seen


def publish(topology: Topology, number: int) -> None:
    with System(topology).bus() as bus:
        bus.publish("work", {"n": number})
        bus.publish_many("ring", [({"n": number, "text": key}, key) for key in KEYS])


def wait_for_retry(
    topology: Topology, number: int, name: str = "work", *, parked: bool = False
) -> None:
    """Put a record where the first retry of a queue waits, or is parked."""
    chosen = topology.queues[name]
    delay = Names(topology).retry_queue(chosen, round(chosen.retry.delays_seconds[0] * 1000))
    delay = Names(topology).parked_retries(delay) if parked else delay
    with broker.connect(topology) as connection:
        channel = connection.channel()
        message = channel.prepare_message(
            b'{"n": %d}' % number, content_type="application/json", properties={"delivery_mode": 2}
        )
        publish_confirmed(channel, message, delay, "")
        channel.close()
