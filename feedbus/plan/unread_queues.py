"""Find queues that the topology no longer has, and that no consumer reads.

Example: a queue was renamed in topology.toml, and then the system was stopped and started. The
queue with the earlier name is still bound, so it gets a copy of every new message.

`feedbus up` finds these queues, and writes their names to a file. On RabbitMQ, `feedbus up` needs
the management API to find them. `feedbus status` needs only AMQP: it reads the names from the file,
and asks the broker for each queue.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker_names import Names, derived
from feedbus.errors import Outage, UsageError
from feedbus.plan.broker_comparison import Comparison
from feedbus.plan.planning import read_states
from feedbus.process.slots import run_folder
from feedbus.topology import Topology
from feedbus.units import counted

BOUND = (
    "no longer in the topology, and no consumer reads it, but it gets a copy of each new message;"
    " `feedbus apply` deletes it while it is empty"
)


@dataclass(frozen=True, slots=True)
class UnreadQueue:
    """A queue that the topology no longer has, and that no consumer reads.

    Attributes:
        name: the name of the queue on the broker.
        messages: the number of its messages.
        reason: what is wrong, and what to do.

    """

    name: str
    messages: int
    reason: str

    def __str__(self) -> str:
        """Return one line for the operator."""
        return f"queue {self.name} ({counted(self.messages, 'message')}): {self.reason}"


def find_unread_queues(topology: Topology) -> list[UnreadQueue]:
    """Return the unread queues that have messages or bindings, and write their names to a file.

    An unread queue is no longer in the topology, and no consumer reads it. unread_queue_notes()
    reads the file.

    `feedbus up` calls this after it has declared the topology. If RabbitMQ's management API cannot
    be read, the result is empty, and the file is not changed.

    """
    try:
        found = list(_compare(topology))
    except (Outage, UsageError):
        return []
    _file(topology).write_text(json.dumps([one.name for one in found]), encoding="utf-8")
    return found


def _compare(topology: Topology) -> Iterator[UnreadQueue]:
    seen = inventory.read_inventory(topology)
    comparison = Comparison(topology, seen, read_states(topology, seen), ())
    comparison.compare()
    for change in comparison.changes:
        queue = seen.queues.get(change.name)
        if change.kind != "queue" or queue is None or queue.consumers:
            continue
        if change.action == "dangerous":
            yield UnreadQueue(change.name, queue.ready, change.reason)
        # Auxiliary queues, such as retry queues, get no copies of new messages, although they are
        # bound to exchanges of their own.
        elif not derived(change.name) and seen.bound_to("queue", change.name):
            yield UnreadQueue(change.name, queue.ready, BOUND)


def unread_queue_notes(topology: Topology) -> Sequence[str]:
    """Return a note about each queue that `feedbus up` found unread, if still no consumer reads it.

    An unread queue is not in the topology. find_unread_queues() has written the names of the queues
    to a file. `feedbus status` calls this.

    Raises:
        Outage: the broker is unavailable.

    """
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        names = json.loads(_file(topology).read_text(encoding="utf-8"))
    # A later `feedbus apply` may have added a queue to the topology again.
    declared = {Names(topology).queue(each) for each in topology.consumers.values()}
    names = [each for each in names if each not in declared]
    if not names:
        return []
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        counts = {
            name: broker.count_messages(connection, name)
            for name in names
            if broker.count_consumers(connection, name) == 0
        }
    return [
        f"queue {name} ({counted(count, 'message')}) is not in the topology, and no consumer reads"
        " it: `feedbus plan` shows what to do"
        for name, count in counts.items()
        if count is not None
    ]


def _file(topology: Topology) -> Path:
    return run_folder(topology) / "unread_queues.json"
