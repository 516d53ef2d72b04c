"""Expand the names that a command gets: a queue stands for the consumers of its shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from feedbus.broker_names import queue_of
from feedbus.errors import UsageError
from feedbus.name_list import expected_one_of

if TYPE_CHECKING:
    from feedbus.topology import Topology


def expanded(topology: Topology, names: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """Return the names of the consumers and processes for which a command is called.

    They are in the topology's order. `feedbus restart` and `feedbus logs` call the function.

    Args:
        topology: the topology with these names.
        names: names of consumers, processes and queues; a queue stands for all its shards. Without
            names, all consumers and processes are returned.
        others: further names that the command accepts: "supervisor", and the names of consumers and
            processes that are no longer in the topology.

    Raises:
        UsageError: a name is unknown.

    """
    everything = [*topology.consumers, *topology.supervised, *others]
    meant: set[str] = set()
    for name in names:
        shards = {one.name for one in topology.consumers.values() if one.queue.name == name}
        shards |= {one for one in others if queue_of(one) == name}
        known = {name} if name in everything else shards
        if not known:
            expected = expected_one_of(name, [*topology.queues, *topology.supervised, *others])
            msg = f"no consumer, queue or process named '{name}'; {expected}"
            raise UsageError(msg)
        meant |= known
    return [name for name in everything if name in meant or not names]
