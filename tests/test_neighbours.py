"""Two projects on one broker; the name of one begins with the name of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from feedbus import broker
from feedbus.broker import inventory
from feedbus.errors import UsageError
from feedbus.generations import topology_setup
from feedbus.topology import Queue, Topology
from tests.applying import carry_out, nothing_to_do
from tests.small_topologies import queue, sharded
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", "rabbitmq", management=True)


def beside(system: System, *queues: Queue, word: str = "eu") -> Topology:
    """Return a project on the same broker, called like the first one and a word more."""
    topology = system.topology
    found = {each.name: each for each in queues}
    return replace(topology, name=f"{topology.name}.{word}", queues=found)


def test_neither_project_sees_or_touches_what_the_other_has(make: Callable[..., System]) -> None:
    system = make(queue(), sharded(2))
    other = beside(system, queue(), sharded(3))
    topology_setup.set_up(other)
    system.publish([1])
    System(other).publish([2])
    assert not {name for name in inventory.read_inventory(system.topology).queues if ".eu." in name}
    assert nothing_to_do(system.topology)
    assert nothing_to_do(other)
    carry_out(system.changed(queue(max_length=9), sharded(3)))
    assert nothing_to_do(other)
    both = System(other)
    both.run(both.note)
    system.run(system.note)
    assert (system.seen, both.seen) == ([1], [2])


def test_projects_whose_names_meet_are_refused_whichever_comes_first(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    topology_setup.set_up(beside(system, queue()))
    meeting = replace(system.topology, queues={"eu.work": queue("eu.work")})
    with pytest.raises(UsageError, match=r"begin with 'eu\.'.*rename one of them"):
        topology_setup.set_up(meeting)
    with broker.connect(system.topology) as connection:
        assert not broker.queue_exists(connection, f"{system.topology.name}.us.work")
    topology_setup.set_up(replace(system.topology, queues={"us.work": queue("us.work")}))
    with pytest.raises(UsageError, match="another project on the broker has exchanges or queues"):
        topology_setup.set_up(beside(system, queue(), word="us"))


@pytest.mark.parametrize("shards", [0, 2])
def test_a_project_that_is_named_like_a_queue_of_another_is_refused_whichever_comes_first(
    make: Callable[..., System], shards: int
) -> None:
    system = make(sharded(2) if shards else queue("shard"))
    refused = "another project on the broker has exchanges or queues"
    for word in ("shard", "ring") if shards else ("shard",):
        with pytest.raises(UsageError, match=refused):
            topology_setup.set_up(beside(system, queue(), word=word))
    topology_setup.set_up(beside(system, queue("dead"), word="mail"))
    topology_setup.set_up(beside(system, queue("dead"), word="mail"))
    with pytest.raises(UsageError, match=r"'mail' in topology.toml: .*rename one of them"):
        inventory.read_inventory(system.changed(queue("mail")))
