"""The checker: errors in the history of a simulated system."""

from __future__ import annotations

from feedbus.wire.constants import FENCE
from tests.simulation import history
from tests.simulation.clock import START
from tests.simulation.history import Record
from tests.simulation.scenario import TICK_SECONDS, Scenario, records_of
from tests.simulation.scheduler import SECONDS
from tests.simulation.system import DeadLetter, System

FIRING_SECONDS = 1.0  # what a schedule needs at most, as soon as it has the lock


def errors_of(system: System) -> list[str]:
    """Return the errors in the history."""
    done, queue, scenario = system.history, "shard", system.scenario
    if scenario.threads > 1:
        done.accepted = system.committed()
    letters = system.dead()
    kind = scenario.kind
    effects = done.effects[queue]
    faults = [f"{name}: {type(e).__name__}: {e}" for name, e in system.scheduler.failures]
    faults += system.network.refused_acknowledgements
    faults += done.at_once
    free = unordered(system)
    caused = scenario.caused
    # A record of which one copy is a dead letter can have its effect by a copy that its publisher
    # has sent again, after later records.
    dead = {
        name: {one for letter in letters if letter.queue == name for one in letter.records}
        for name in ("work", queue)
    }
    faults += unfounded(system, letters)
    accepted = [each for each in done.accepted if each not in dead["work"]]
    expected = [one for each in accepted for one in caused(each) if one not in dead[queue]]
    if scenario.schedulers:
        faults += schedule_errors(system)
    if kind == "once":
        stored = system.stored_effects(ticks=False)
        faults += history.missing("work", accepted, stored)
        faults += history.repeated("work", stored, done.ids)
        faults += history.disordered("work", stored, free | dead["work"])
    faults += history.missing(queue, expected, effects)
    faults += history.invented(queue, (one for each in done.tried for one in caused(each)), effects)
    if kind in {"chain", "stream"}:
        faults += history.missing("work", accepted, done.effects["work"])
        faults += history.disordered("work", done.effects["work"], free | dead["work"])
    faults += history.disordered(queue, effects, free | dead[queue] | overtakable(system))
    if len(scenario.shards) == 1:
        faults += history.wandering(queue, done.handled_by)
    if exact(scenario):
        faults += history.repeated(queue, effects, done.ids)
    return faults


def overtakable(system: System) -> set[Record]:
    """Return the records that a full queue has refused together with others."""
    if not system.scenario.full:
        return set()
    return {
        one
        for message in system.network.overtakable
        if FENCE not in (message.properties.get("application_headers") or {})
        for one in records_of(as_bytes(message.body), message.properties["content_type"])
    }


def as_bytes(body: bytes | str) -> bytes:
    """Return the body of a message."""
    return body.encode() if isinstance(body, str) else body


def unfounded(system: System, letters: list[DeadLetter]) -> list[str]:
    """Return a fault for each dead letter that was not alone in a handler when processes ended."""
    blamed, limit = system.history.blamed, system.scenario.delivery_limit
    return [
        f"{each.queue}: {', '.join(map(str, each.records))} became a dead letter: {each.reason}"
        for each in letters
        if blamed[each.queue, each.message_id] < limit
    ]


def exact(scenario: Scenario) -> bool:
    """Whether each record has its effect exactly once, although nothing is in a transaction."""
    if scenario.faults or scenario.hosts > 1 or scenario.full:
        return False
    if scenario.stored:
        return False  # the relay waits for a transaction, and then takes rows for old ones
    # A batch is handled again if a later record of a key has overtaken one that has failed.
    overtaken = scenario.batch and scenario.ordered and scenario.failing
    # A consumer that is stopped finishes the records that run, and not the rest of their messages.
    stopped = scenario.concurrency > 1 and len(scenario.shards) > 1
    return not (overtaken or stopped)


def schedule_errors(system: System) -> list[str]:
    """Return the errors in the moments of the schedule."""
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
        faults += history.gaps(ticks, (each for each in moments if not passed_locked(system, each)))
    return faults


def passed_locked(system: System, moment: int) -> bool:
    """Whether the lock that a schedule needs was held from a moment until the next one.

    An apply holds it, and its steps are slow here. Then only the latest moment is fired.
    """
    begin = moment * SECONDS - START
    end = begin + int((TICK_SECONDS - FIRING_SECONDS) * SECONDS)
    return any(one <= begin and end <= other for one, other in system.history.locked)


def unordered(system: System) -> set[Record]:
    """Return the records whose order feedbus does not state, of both queues."""
    done, scenario = system.history, system.scenario
    if scenario.ordered:
        work, shard = done.unblocked["work"], done.unblocked["shard"]
        return work | {one for each in work for one in scenario.caused(each)} | shard
    if scenario.concurrency > 1 or (scenario.full and scenario.kind == "chain"):
        published = set(done.tried)
    else:
        published = done.failed["work"] if scenario.worked else done.failed["shard"]
        published = published | kept(system)
    caused = {one for each in published for one in scenario.caused(each)}
    return published | caused | done.failed["shard"]


def kept(system: System) -> set[Record]:
    """Return the records that the broker kept for a killed process, of the queue without shards.

    Meanwhile the next process reads later messages, unless the broker lets one consumer read.
    """
    if system.scenario.single_active:
        return set()
    return {
        one
        for queue, content_type, body in system.network.kept
        if queue == "simulated.work"
        for one in records_of(body, content_type)
    }


def stuck(system: System) -> list[str]:
    """Return the objects that are left at the end."""
    faults = [f"{name} does not end" for name in sorted(system.unfinished)]
    faults += system.waiting()
    faults += [f"{each.queue}: a dead letter blocks a key" for each in system.blocking()]
    faults += system.disagreements()
    if system.ticks_late():
        faults.append("the schedule is not fired any more")
    if rows := system.outbox_rows():
        faults.append(f"{rows} messages stay in the outbox")
    return faults or ["the system does not come to rest"]
