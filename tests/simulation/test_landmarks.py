"""The landmarks and the adversary, and what happens there."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker_names import lock_queue
from feedbus.transports import memory
from tests.simulation.adversary import Adversary, name_of_moment
from tests.simulation.broker import SimulatedBroker
from tests.simulation.ignored_warnings import OF_KILLED_PROCESSES
from tests.simulation.landmarks import ALL, Landmark
from tests.simulation.network import Network
from tests.simulation.runs import simulate
from tests.simulation.scenario import BROKER, Scenario, topology_of
from tests.simulation.scheduler import SECONDS, Scheduler
from tests.simulation.strikes import Strikes

MOST = 40

pytestmark = OF_KILLED_PROCESSES


@pytest.mark.parametrize("landmark", ALL, ids=lambda landmark: landmark.name)
def test_a_landmark_is_a_function_of_its_owner(landmark: Landmark):
    assert isinstance(landmark.owner.__dict__[landmark.name], FunctionType)


def test_a_process_stands_still_until_another_one_deletes_a_queue_of_a_ring():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    network = Network(scheduler)
    system: Any = SimpleNamespace(
        scheduler=scheduler,
        network=network,
        process=lambda: scheduler.current,
        blame=lambda _: None,
    )
    went_on: list[int] = []

    def wait() -> None:
        Strikes(system, random.Random(1)).await_deletion()
        went_on.append(scheduler.now)

    def delete() -> None:
        with broker.connect(topology) as connection:
            channel: Any = connection.channel()
            for queue in (lock_queue(topology.name), "simulated.shard_0.bed36fe0"):
                scheduler.wait("pauses", until=scheduler.now + 2 * SECONDS)
                channel.queue_declare(queue)
                channel.queue_delete(queue)

    memory.create(SimulatedBroker(BROKER, network, None))
    try:
        waiting = scheduler.start("waiting", wait)
        scheduler.start("deleting", delete)
        scheduler.run(lambda: waiting.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert 4 * SECONDS < went_on[0] < 5 * SECONDS


def test_the_adversary_meets_moments_that_have_names_of_feedbus(monkeypatch: pytest.MonkeyPatch):
    met = Counter[str]()

    def noted_meet(_self: Adversary) -> None:
        met[name_of_moment()] += 1

    monkeypatch.setattr(Adversary, "meet", noted_meet)
    seeds = (seed for seed in range(1, MOST) if has_adversary(seed))
    simulate(next(seeds))
    assert any("Publisher" in name for name in met)
    assert any("settle_up_to" in name for name in met)
    assert len(met) > 20


def has_adversary(seed: int) -> bool:
    scheduler = Scheduler(seed)
    system: Any = SimpleNamespace(scheduler=scheduler, scenario=Scenario.of(scheduler))
    return Adversary(system).exists
