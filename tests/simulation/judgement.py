"""What is wrong with what a simulated system has done."""

from __future__ import annotations

from feedbus.wire.constants import REASON
from tests.simulation import history
from tests.simulation.clock import START
from tests.simulation.history import Record
from tests.simulation.scenario import TICK_SECONDS
from tests.simulation.scheduler import SECONDS
from tests.simulation.system import System


def judge(system: System) -> list[str]:
    """Return what is wrong with the history."""
    done, queue, scenario = system.history, "shard", system.scenario
    kind = scenario.kind
    effects = done.effects[queue]
    faults = [f"{name}: {type(e).__name__}: {e}" for name, e in system.scheduler.failures]
    faults += system.network.refused_acknowledgements
    faults += done.at_once
    free = unordered(system)
    caused = scenario.caused
    if scenario.schedulers:
        faults += judge_schedule(system)
    if kind == "once":
        stored = system.stored_effects(ticks=False)
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
    if not scenario.full:  # what a full queue refuses of a window may be overtaken
        faults += history.disordered(queue, effects, free)
    if len(scenario.shards) == 1:
        faults += history.wandering(queue, done.handled_by)
    return faults


def judge_schedule(system: System) -> list[str]:
    """Return what is wrong with the moments of the schedule."""
    scenario, done, ticks = system.scenario, system.history, system.ticks()
    now = system.clock.wall_nanoseconds() // SECONDS
    faults = history.mistimed(ticks, now, TICK_SECONDS) + history.missing(
        "ticks", done.fired, ticks
    )
    # One of several hosts is also killed where no other faults happen.
    if scenario.stored or (not scenario.faults and scenario.hosts == 1):
        faults += history.repeated("ticks", ticks)
    if not scenario.faults:
        first = START // SECONDS // TICK_SECONDS + 1
        moments = range(first * TICK_SECONDS, now - TICK_SECONDS, TICK_SECONDS)
        faults += history.gaps(ticks, moments)
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
    faults += system.disagreements()
    if system.ticks_late():
        faults.append("the schedule is not fired any more")
    dead = system.broker.headers(lambda name: name.endswith(".dead"))
    faults += [f"a dead letter: {headers.get(REASON, headers)}" for headers in dead]
    if rows := system.outbox_rows():
        faults.append(f"{rows} messages stay in the outbox")
    return faults or ["the system does not come to rest"]
