"""Make a plan: read the broker and the rings, and compare them with the topology."""

from __future__ import annotations

from collections.abc import Collection

from feedbus import broker
from feedbus.broker import external_objects, inventory
from feedbus.broker.inventory import Inventory
from feedbus.generations import state_queues
from feedbus.generations.ring_state import RingState
from feedbus.plan import ring_changes
from feedbus.plan.broker_comparison import Comparison
from feedbus.plan.changes import Change, Plan, Watchers
from feedbus.plan.classic_queues import classic_queues_note
from feedbus.plan.declared_objects import schedule_text
from feedbus.topology import Topology

NOTHING_RUNS = "nothing runs here: `feedbus up` starts the consumers"
NOTHING_DRAINS = (
    "nothing runs here: the next `feedbus up` starts the consumers, which drain old generations"
)


def make_plan(
    topology: Topology,
    watchers: Watchers | None,
    *,
    delete_nonempty: Collection[str] = (),
    predict: bool = True,
) -> Plan:
    """Return the plan of a topology; nothing is declared, changed or deleted.

    `feedbus plan` and `feedbus apply` call this.

    Args:
        topology: the wanted state.
        watchers: the differences between the processes that the supervisor runs and the processes
            that the topology declares; None if no supervisor runs.
        delete_nonempty: the names of queues that may be deleted with their messages.
        predict: whether to predict where keys move and how long a backlog takes. The prediction
            takes some seconds.

    Raises:
        Outage: the broker is unavailable.
        UsageError: RabbitMQ's management API does not answer, or an external object is missing.

    """
    seen = inventory.read_inventory(topology)
    external_objects.check_seen(topology, seen)
    states = read_states(topology, seen)
    removed = watchers.removed if watchers is not None else ()
    comparison = Comparison(topology, seen, states, delete_nonempty, removed)
    work = comparison.compare()
    changes = [*comparison.changes, *_watcher_changes(topology, watchers)]
    unknown = sorted(set(delete_nonempty) - comparison.matched_names)
    notes = [
        f"--delete-nonempty {name}: `feedbus apply` deletes no queue of this name that has"
        " messages; remove this option"
        for name in unknown
    ]
    if note := classic_queues_note(topology, seen):
        notes.append(note)
    draining = tuple(ring_changes.list_draining(topology, seen, states))
    changed_rings = tuple(ring_changes.changes(topology, seen, states, predict=predict))
    if watchers is None:
        drains = draining or any(ring.old for ring in changed_rings)
        notes.append(NOTHING_DRAINS if drains else NOTHING_RUNS)
    return Plan(
        changes=tuple(changes),
        rings=changed_rings,
        draining=draining,
        watchers=watchers,
        notes=tuple(notes),
        unacknowledged_age_seconds=seen.unacknowledged_age_seconds,
        work=work,
    )


def read_states(topology: Topology, seen: Inventory) -> dict[str, RingState]:
    """Return the states of all rings by the names of their exchanges; nothing is changed.

    Args:
        topology: the topology of the rings.
        seen: the objects that the broker has.

    Raises:
        Outage: the broker is unavailable.

    """
    # A broker without queues has no rings. It can be an embedded broker whose file does not exist.
    # A connection would create this file, but a plan changes nothing.
    if not seen.queues:
        return {}
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        return state_queues.exact_states(connection, topology)


def _watcher_changes(topology: Topology, watchers: Watchers | None) -> list[Change]:
    if watchers is None:
        return []

    def change(action: str, name: str, reason: str) -> Change:
        kind = "process" if name in topology.supervised else "consumer"
        return Change(action, kind, name, reason)  # type: ignore[arg-type]

    return [
        *(change("create", name, "a process will be started") for name in watchers.added),
        *(change("change", name, why) for name, why in watchers.restarted.items()),
        *(change("change", name, why) for name, why in watchers.started.items()),
        *(
            Change("change", "schedule", name, f"now {schedule_text(topology.schedule(name))}")
            for name in watchers.schedules
        ),
        *(change("delete", name, "its process will end") for name in watchers.removed),
    ]
