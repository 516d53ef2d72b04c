"""An apply that is interrupted at any of its steps, which the next apply completes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from feedbus.broker import inventory, queue_arguments
from feedbus.broker_names import Names
from feedbus.topology import Exchange
from servers import versions
from tests.applying import (
    KEYS,
    WAITING,
    carry_out,
    consume_ring,
    consume_work,
    killed_at,
    nothing_to_do,
    publish,
    wait_for_retry,
)
from tests.small_topologies import BATCH, queue, sharded
from tests.system_fixtures import on_broker
from tests.systems import System

PROJECT = Path(__file__).parent.parent
# Passed when nothing runs; those with a supervisor are in tests/integration/test_resharding.py.
STEPS = [
    *("planned", "exchange-deleted", "exchanges-declared"),
    *("gate-put", "gate-closed", "retries-parked", "queue-deleted", "gate-opened"),
    *("held-appended", "gate-gone", "delay-parked", "delay-deleted", "created"),
    *("retries-returned", "unbound", "left-behind"),
    *(
        "declared",
        "written",
        "disconnected",
        "connected",
        "appended",
        "completed",
        "switched",
        "fenced",
    ),
    *("queue-removed", "deleted"),
]
# On RabbitMQ those between which messages go another way: each takes some seconds.
ON_RABBITMQ = (
    "gate-put",
    "gate-closed",
    "queue-deleted",
    "gate-opened",
    "held-appended",
    "disconnected",
)
CRASHES = [
    *(("embedded", step) for step in STEPS),
    *((version, step) for version in versions.chosen() for step in ON_RABBITMQ),
]
WITH_A_SUPERVISOR = {"paused", "followed", "drained", "finished"}


@pytest.fixture(params=["embedded", *versions.chosen()])
def broker_kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(
    request: pytest.FixtureRequest, tmp_path: Path, broker_kind: str
) -> Iterator[Callable[..., System]]:
    """Make systems on either broker."""
    yield from on_broker(broker_kind, tmp_path, request, management=True)


@pytest.mark.parametrize(("broker_kind", "step"), CRASHES, indirect=["broker_kind"])
def test_an_apply_that_ends_at_any_step_is_ended_by_the_next(
    make: Callable[..., System], step: str
) -> None:
    system = make(
        queue(retry=WAITING, routing_keys=("", "old")),
        sharded(2, batch=BATCH),
        queue("moved", exchange="other", routing_keys=("m",)),
        queue("gone", exchange="other", routing_keys=("g",)),
        pack=5,
    )
    wait_for_retry(system.topology, 99)
    publish(system.topology, 0)
    wanted = system.changed(
        queue(retry=WAITING, max_length=1000),
        sharded(3, batch=BATCH),
        queue("moved", exchange="ring", routing_keys=()),
        other=Exchange("other", "direct", 5),
    )
    if step == "unbound":
        wanted = replace(
            wanted, queues={**wanted.queues, "work": queue(retry=WAITING)}
        )  # only a queue that is not replaced keeps its other bindings
    assert killed_at(step, lambda: carry_out(wanted))
    publish(wanted, 1)
    _, _, reported = carry_out(wanted)
    publish(wanted, 2)
    assert nothing_to_do(wanted), reported
    assert consume_ring(wanted, 3) == {key: [0, 1, 2] for key in KEYS}
    assert consume_work(wanted, 3) == [0, 1, 2]
    seen = inventory.read_inventory(wanted)
    names = Names(wanted)
    work = seen.queues[names.queue(wanted.consumers["work"])]
    assert (
        dict(work.arguments).items()
        >= queue_arguments.declared_arguments(names, wanted.queues["work"]).items()
    )
    assert seen.queues[names.retry_queue(wanted.queues["work"], 600_000)].ready == 1
    left = {name.removeprefix(f"{wanted.name}.") for name in (*seen.queues, *seen.exchanges)}
    assert not {name for name in left if re.search(r"gone|gate|before|parked", name)}
    assert nothing_to_do(wanted)


def test_every_step_has_its_crash_test() -> None:
    found = set()
    for path in (PROJECT / "feedbus").rglob("*.py"):
        found |= set(re.findall(r"\bexit_after_step\(\"([a-z-]+)\"\)", path.read_text()))
    assert found == {*STEPS, *WITH_A_SUPERVISOR}


def test_a_plan_counts_the_retries_that_an_interrupted_apply_has_parked(
    make: Callable[..., System],
) -> None:
    system = make(queue(retry=WAITING))
    wait_for_retry(system.topology, 7)
    wanted = system.changed(queue(retry=WAITING, max_length=5, overflow="reject-publish"))
    assert killed_at("delay-parked", lambda: carry_out(wanted))
    plan, _, _ = carry_out(wanted)
    (change,) = [each for each in plan.changes if "moved its retries" in each.reason]
    assert change.messages == 1
