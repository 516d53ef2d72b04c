"""Find queues of feedbus that stay classic although the topology declares quorum queues."""

from __future__ import annotations

from collections.abc import Iterator

from feedbus.broker.inventory import Inventory
from feedbus.broker.queue_arguments import may_refuse_retries, needs_quorum
from feedbus.broker_names import Names
from feedbus.name_list import listed
from feedbus.topology import Topology

NAMES_SHOWN = 10


def classic_queues_note(topology: Topology, seen: Inventory) -> str:
    """Return a note about feedbus's own queues that stay classic; "" if there are none.

    feedbus's own queues are the queues for dead letters, for retries and similar queues. The note
    names those that exist as classic queues, although feedbus would now declare them as quorum
    queues. feedbus does not replace them, because they may have messages. But while the node of a
    classic queue is unavailable, the queue is unavailable, too.

    Args:
        topology: the topology.
        seen: the objects that the broker has.

    """
    kept = [
        name
        for name in _quorum_queues(topology)
        if name in seen.queues
        and seen.queues[name].arguments.get("x-queue-type", "classic") == "classic"
    ]
    if not kept:
        return ""
    return (
        "feedbus's own queues keep their type, so these stay classic, and are unavailable while"
        f" their node is: {listed(kept, NAMES_SHOWN)}; 'On a cluster' on the page 'Operations' of"
        " the documentation says which of them you can delete"
    )


def _quorum_queues(topology: Topology) -> Iterator[str]:
    """Yield the names of feedbus's own queues that must be quorum queues.

    Retry queues that `feedbus apply` replaces are left out.
    """
    names = Names(topology)
    for queue in topology.queues.values():
        if queue.type == "quorum":
            yield names.dead(queue)
            if not may_refuse_retries(queue):  # otherwise `feedbus apply` replaces its retry queues
                delays = queue.retry.delays_milliseconds
                yield from (names.retry_queue(queue, each) for each in delays)
            # A ring with quorum queues is a new one, whose waiting queues are new, too.
            yield names.waiting(names.unsharded(queue))
    for exchange in topology.exchanges.values():
        if exchange.hashed and needs_quorum(topology, exchange.name):
            yield names.held(exchange.name)
            yield names.generations(exchange.name)
            yield names.ledger(exchange.name)
    for schedule in topology.schedules.values():
        if needs_quorum(topology, schedule.exchange):
            yield names.schedule(schedule.name)
