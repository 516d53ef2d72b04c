"""Requeueing dead letters while `feedbus apply` changes the objects on the broker."""

from __future__ import annotations

from collections.abc import Callable

from feedbus.dead_letters import letters
from feedbus.dead_letters.letters import DeadLetter
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import Reject
from servers import versions
from tests.applying import carry_out
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen(), management=True)


def test_an_apply_that_deletes_the_temporary_exchange_does_not_end_a_requeue(
    make: Callable[..., System],
) -> None:
    system = make(queue())
    topology = system.topology
    (work,) = topology.queues.values()

    def fail(_message: object, _bus: object) -> None:
        raise Reject

    system.publish([1, 2, 3])
    system.run(fail)
    deleted = []
    with letters.open_channel(topology) as channel, Requeue(topology, work) as back:

        def send_back(letter: DeadLetter) -> None:
            back.send(letter)
            if not deleted:
                plan, _, _ = carry_out(topology)
                deleted.extend(each.name for each in plan.changes if each.kind == "exchange")

        assert letters.settle(channel, topology, work, lambda _: True, send_back) == 3
    assert len(deleted) == 1
    system.run(system.note)
    assert sorted(system.seen) == [1, 2, 3]
