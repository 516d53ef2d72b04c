"""What is wrong with what a simulated system has done."""

from __future__ import annotations

from feedbus.wire.constants import REASON
from tests.simulation import history
from tests.simulation.history import Record
from tests.simulation.system import System


def judge(system: System) -> list[str]:
    """Return what is wrong with the history."""
    done, queue, kind = system.history, "shard", system.scenario.kind
    effects = done.effects[queue]
    faults = [f"{name}: {type(e).__name__}: {e}" for name, e in system.scheduler.failures]
    faults += system.network.refused_acknowledgements
    faults += done.at_once
    free = unordered(system)
    caused = system.scenario.caused
    if kind == "once":
        stored = [Record(key, n) for key, n in system.database.effects()]
        faults += history.missing("work", done.accepted, stored)
        faults += history.repeated("work", stored)
        faults += history.disordered("work", stored, free)
    faults += history.missing(
        queue, (one for each in done.accepted for one in caused(each)), effects
    )
    faults += history.invented(queue, (one for each in done.tried for one in caused(each)), effects)
    if kind in {"chain", "stream"}:
        faults += history.missing("work", done.accepted, done.effects["work"])
        faults += history.disordered("work", done.effects["work"], free)
    if not system.scenario.full:  # what a full queue refuses of a window may be overtaken
        faults += history.disordered(queue, effects, free)
    if len(system.scenario.shards) == 1:
        faults += history.wandering(queue, done.handled_by)
    return faults


def unordered(system: System) -> set[Record]:
    """Return the records whose order feedbus does not state."""
    done, scenario = system.history, system.scenario
    if scenario.ordered:
        return set()
    if scenario.concurrency > 1:
        published = set(done.tried)
    else:
        published = done.failed["work"] if scenario.worked else done.failed["shard"]
    caused = {one for each in published for one in scenario.caused(each)}
    return published | caused | done.failed["shard"]


def stuck(system: System) -> list[str]:
    """Return what is left at the end."""
    faults = [f"{name} does not end" for name in sorted(system.unfinished)]
    faults += system.waiting()
    dead = system.broker.headers(lambda name: name.endswith(".dead"))
    faults += [f"a dead letter: {headers.get(REASON, headers)}" for headers in dead]
    if rows := system.outbox_rows():
        faults.append(f"{rows} messages stay in the outbox")
    return faults or ["the system does not come to rest"]
