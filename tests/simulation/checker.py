"""The checker: errors in the history of a simulated system."""

from __future__ import annotations

from typing import Any

from feedbus.wire.constants import BLOCKED, FENCE, RELEASE
from tests.simulation import history
from tests.simulation.clock import START
from tests.simulation.handling import REJECTED
from tests.simulation.history import Record
from tests.simulation.scenario import BATCH_RECORDS, LARGE_PACK, TICK_SECONDS, Scenario, records_of
from tests.simulation.scheduler import SECONDS
from tests.simulation.system import DeadLetter, System

WITHOUT_RECORD = {BLOCKED, FENCE, RELEASE}  # headers of messages that contain no record
FIRING_SECONDS = 1.0  # what a schedule needs at most, as soon as it has the lock


def errors_of(system: System) -> list[str]:
    """Return the errors in the history."""
    done, scenario = system.history, system.scenario
    if scenario.numbers_in_store:
        done.accepted = system.committed()
    letters = system.dead()
    faults = [f"{name}: {type(e).__name__}: {e}" for name, e in system.scheduler.failures]
    faults += system.network.refused_acknowledgements
    faults += done.at_once + done.early + done.forgotten + done.shared_ids + done.republished
    faults += done.lost_messages + done.kept
    faults += unfounded(system, letters) + past_limit(system)
    if scenario.schedulers:
        faults += schedule_errors(system)
    faults += queue_errors(system, letters)
    if len(scenario.shards) == 1:
        faults += history.wandering("shard", done.handled_by)
    return faults


def queue_errors(system: System, letters: list[DeadLetter]) -> list[str]:
    """Return the errors in the effects of each queue."""
    done, scenario, faults = system.history, system.scenario, list[str]()
    accepted, tried, ids = list(done.accepted), set(done.tried), dict(done.ids)
    free, dead = unordered(system), set[Record]()
    for queue in scenario.queues:
        if queue != scenario.queues[0]:
            accepted = [one for each in accepted for one in scenario.caused(each)]
            tried = {one for each in tried for one in scenario.caused(each)}
            ids = {one: found for each, found in ids.items() for one in scenario.caused(each)}
            dead = {one for each in dead for one in scenario.caused(each)}
        effects = system.effects(queue)
        # A record of which one copy is a dead letter can have its effect by a copy that its
        # publisher has sent again, after later records. So do the records that it causes.
        dead |= {one for letter in letters if letter.queue == queue for one in letter.records}
        dead |= done.dropped[queue]
        accepted = [each for each in accepted if each not in dead]
        unbound = free[queue] | dead | done.late
        overtakers = latest_overtakers(system) if queue == "shard" else {}
        faults += history.missing(queue, accepted, effects)
        faults += history.invented(queue, tried, effects)
        faults += history.disordered(queue, effects, unbound, overtakers)
        if scenario.is_once(queue) or (queue == "shard" and exact(scenario)):
            faults += history.repeated(queue, effects, ids)
    return faults


def latest_overtakers(system: System) -> dict[Record, int]:
    """Return which records can overtake a record that a full queue has refused.

    These are later records of its key that were sent together with it, and that were not refused.

    Returns:
        The number of the last one of them, by the refused record.

    """
    found: dict[Record, int] = {}
    if not system.scenario.full:
        return found
    for answers in system.network.divided_sendings:
        last: dict[str, int] = {}  # by key
        for answer in reversed(answers):
            records = records_in(answer.message)
            if not answer.is_accepted:
                for each in records:
                    found[each] = max(found.get(each, 0), last.get(each.key, 0))
            if answer.is_accepted is not False:
                for each in records:
                    last[each.key] = max(last.get(each.key, 0), each.n)
    return found


def records_in(message: Any) -> list[Record]:
    """Return the records of an amqp Message."""
    properties = message.properties
    if not WITHOUT_RECORD.isdisjoint(properties.get("application_headers") or {}):
        return []
    return records_of(as_bytes(message.body), properties["content_type"])


def as_bytes(body: bytes | str) -> bytes:
    """Return the body of a message."""
    return body.encode() if isinstance(body, str) else body


def unfounded(system: System, letters: list[DeadLetter]) -> list[str]:
    """Return a fault for each dead letter that was not alone in a handler when processes ended."""
    blamed, limit = system.history.blamed, system.scenario.delivery_limit
    return [
        f"{each.queue}: {', '.join(map(str, each.records))} became a dead letter: {each.reason}"
        for each in letters
        if blamed[each.queue, each.message_id] < limit and not is_rejected(system, each)
    ]


def past_limit(system: System) -> list[str]:
    """Return a fault if more records waited than `waiting_limit` permits.

    The messages that a consumer has got before the limit is reached can exceed it. Records that
    are moved because of a change of the number of shards can exceed it, too. With `block_on_dead`,
    a consumer handles requeued dead letters also when the limit is reached, and they can wait.
    """
    scenario, count = system.scenario, system.history.most_waiting
    pack = LARGE_PACK if scenario.kind == "stream" else max(scenario.pack, 1)
    messages = max(scenario.prefetch, scenario.concurrency, BATCH_RECORDS * scenario.batch)
    most = scenario.waiting_limit - 1 + messages * pack
    if scenario.block_on_dead:
        most += sum(system.history.rejected.values())
    if len(scenario.shards) > 1 or count <= most:
        return []
    return [f"{count} records waited, and waiting_limit is {scenario.waiting_limit}"]


def is_rejected(system: System, letter: DeadLetter) -> bool:
    """Whether the handlers reject the record of a dead letter."""
    return letter.reason == REJECTED and all(map(system.scenario.rejects, letter.records))


def exact(scenario: Scenario) -> bool:
    """Whether each record has its effect exactly once, although nothing is in a transaction."""
    if scenario.faults or scenario.hosts > 1 or scenario.full:
        return False
    if scenario.stored:
        return False  # the relay waits for a transaction, and then takes rows for old ones
    # A batch is handled again if a later record of a key has overtaken one that has failed.
    failing = scenario.failing or (scenario.rejecting and scenario.block_on_dead)
    overtaken = scenario.batch and scenario.ordered and failing
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
        # A schedule is new until a host could store its first moment, which needs the lock.
        begun = done.began_after or 0
        due = (each for each in moments if each > begun and not passed_locked(system, each))
        faults += history.gaps(ticks, due)
    return faults


def passed_locked(system: System, moment: int) -> bool:
    """Whether the lock that a schedule needs was held from a moment until the next one.

    An apply holds it, and its steps are slow here. Then only the latest moment is fired.
    """
    begin = moment * SECONDS - START
    end = begin + int((TICK_SECONDS - FIRING_SECONDS) * SECONDS)
    return any(one <= begin and end <= other for one, other in system.history.locked)


def unordered(system: System) -> dict[str, set[Record]]:
    """Return the records whose order feedbus does not state, of each queue."""
    done, scenario = system.history, system.scenario
    free, found = set[Record](), dict[str, set[Record]]()
    if not scenario.ordered and (
        scenario.concurrency > 1 or (scenario.full and scenario.kind == "chain")
    ):
        free = set(done.tried)
    for queue in scenario.queues:
        if found:
            free = {one for each in free for one in scenario.caused(each)}
        if scenario.ordered:
            free = free | done.unblocked[queue]
        else:
            free = free | done.failed[queue] | kept(system, queue)
        found[queue] = free
    return found


def kept(system: System, queue: str) -> set[Record]:
    """Return the records that the broker kept for a killed process, of a queue without shards.

    Meanwhile the next process reads later messages, unless the broker lets one consumer read.
    """
    if system.scenario.single_active or queue == "shard":
        return set()
    return {
        one
        for name, content_type, body in system.network.kept
        if name == f"simulated.{queue}"
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
