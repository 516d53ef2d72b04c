"""What a broker has otherwise than a topology: exchanges, queues, bindings, leftovers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from feedbus.broker import entities, projects, timer_objects
from feedbus.broker.differences import differing
from feedbus.broker.inventory import Inventory
from feedbus.broker.names import Names
from feedbus.broker.port import SeenQueue
from feedbus.cron import Cron
from feedbus.generations import replacement, switch
from feedbus.generations.ledger import State
from feedbus.plan.changes import DEAD_LETTERS, RETRIES, Change, Kind, Work
from feedbus.topology import Consumer, Exchange, Generation, Topology

OWN = r"(?:_\d+)?(?:\.(?:dead|before|gate\.held|retry\.\d+(?:\.parked)?|[0-9a-f]{8}))?"
OF_A_QUEUE = re.compile(r"(.+?)\.(?:before|gate|gate\.held|retry\.\d+(?:\.parked)?|[0-9a-f]{8})")
OF_A_RING = re.compile(r"(.+)\.(?:held|packs|generations|generations\.ledger|[0-9a-f]{8})")


@dataclass(slots=True)
class Comparison:
    """The topology on one hand, the broker's inventory and the rings' states on the other."""

    topology: Topology
    seen: Inventory
    states: Mapping[str, State]
    doomed: Collection[str]
    changes: list[Change] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    timer_queues: Mapping[str, Mapping[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        """Compute once what the timer's queues have to be."""
        self.timer_queues = timer_objects.queues_of_timer(self._names)

    def work(self) -> Work:
        """Go through everything, note the changes, and return the names to go by."""
        exchanges = tuple(self._exchanges())
        replaced = tuple(self._queues())
        delays = tuple(self._delays())
        parked = tuple(self._parked_delays())
        self._schedules()
        self._timer()
        unbound = tuple(self._bindings())
        leaving, deleted, nonempty = self._leftover_queues()
        return Work(
            exchanges=exchanges,
            replaced=replaced,
            delays=delays,
            parked=parked,
            unbound=unbound,
            leaving=tuple(leaving),
            deleted_queues=tuple(deleted),
            nonempty=tuple(nonempty),
            deleted_exchanges=tuple(self._leftover_exchanges()),
        )

    @property
    def _names(self) -> Names:
        return Names(self.topology)

    def _note(self, action: Any, kind: Kind, name: str, reason: str, messages: int = 0) -> None:
        self.changes.append(Change(action, kind, name, reason, messages))

    # -- what is wanted ------------------------------------------------------------------------

    def _exchanges(self) -> Iterator[str]:
        for exchange in self.topology.exchanges.values():
            if exchange.external_name:
                continue
            name = self._names.exchange(exchange.name)
            kind, arguments = self._declared(exchange)
            found = self.seen.exchanges.get(name)
            if found is None:
                self._note("create", "exchange", name, f"{exchange.type}, new in the topology")
            elif found.type != kind or differing(found.arguments, arguments):
                was = found.type if found.type != kind else "other arguments"
                self._note(
                    *("change", "exchange", name),
                    f"{exchange.type}, was {was}: deleted and declared again; publishers are"
                    " refused in between",
                )
                yield name

    def _declared(self, exchange: Exchange) -> tuple[str, Mapping[str, Any]]:
        if exchange.hashed:
            return "fanout", {"alternate-exchange": self._names.held(exchange.name)}
        return exchange.type, exchange.arguments

    def _queues(self) -> Iterator[str]:
        for consumer in self._on_no_ring():
            name = self._names.queue(consumer)
            if replacement.begun(self.topology, consumer, self.seen):
                self._note(
                    "change", "queue", name, "its replacement was interrupted and is completed"
                )
                yield consumer.name
            elif name not in self.seen.queues:
                on = self._names.exchange(consumer.queue.exchange)
                self._note("create", "queue", name, f"new in the topology, bound to {on}")
            elif replacement.differs(self.topology, consumer, self.seen):
                found = self.seen.queues[name]
                self._note(
                    *("change", "queue", name),
                    f"{self._difference(consumer, found)}: replaced by a new queue, its"
                    " content is kept",
                    found.messages,
                )
                yield consumer.name

    def _on_no_ring(self) -> Iterator[Consumer]:
        """Yield the consumers whose queue is declared here and is on no ring."""
        for consumer in self.topology.consumers.values():
            if not consumer.queue.external_name and not self.topology.on_ring(consumer.queue):
                yield consumer

    def _difference(self, consumer: Consumer, found: SeenQueue) -> str:
        wanted = entities.queue_arguments(self._names, consumer.queue)
        return ", ".join(
            f"{name} {'none' if old is None else old} to {'none' if new is None else new}"
            for name, (old, new) in differing(found.arguments, wanted).items()
        )

    def _parked_delays(self) -> Iterator[tuple[str, str]]:
        for queue, name in replacement.parked_delays(self.topology, self.seen):
            self._note("change", "queue", name, "retries that were parked are returned")
            yield queue, name

    def _delays(self) -> Iterator[tuple[str, str]]:
        for queue in self.topology.queues.values():
            for name in replacement.wrong_delays(self.topology, queue, self.seen):
                self._note(
                    *("change", "queue", name),
                    "its retries return by another route: it is declared again, and their"
                    " waiting times begin again",
                    self.seen.queues[name].messages,
                )
                yield queue.name, name
            for delay in queue.retry.delays_seconds:
                name = self._names.delay(queue, round(delay * 1000))
                if name not in self.seen.queues:
                    self._note("create", "queue", name, RETRIES)
            if self._names.dead(queue) not in self.seen.queues:
                self._note("create", "queue", self._names.dead(queue), DEAD_LETTERS)

    def _schedules(self) -> None:
        for schedule in self.topology.schedules.values():
            if self._names.schedule(schedule.name) not in self.seen.queues:
                first = Cron.of(schedule).next_after(datetime.now(UTC)).isoformat()
                self._note(
                    *("create", "schedule", schedule.name),
                    f"'{schedule.cron}' in {schedule.timezone}, to {schedule.exchange};"
                    f" its next moment is {first}",
                )

    def _timer(self) -> None:
        for name in timer_objects.missing_queues(self._names, self.seen.queues):
            self._note("create", "queue", name, "missing; delayed messages wait there")

    def _bindings(self) -> Iterator[tuple[str, str, str]]:
        external = {one.external_name for one in self.topology.exchanges.values()}
        for consumer in self._on_no_ring():
            queue = self._names.queue(consumer)
            begun = replacement.begun(self.topology, consumer, self.seen)
            if queue not in self.seen.queues or begun:
                continue
            source = self._names.exchange(consumer.queue.exchange)
            wanted = {(source, key) for key in entities.binding_keys(consumer.queue)}
            found = {(one.source, one.key) for one in self.seen.bound_to("queue", queue)}
            for exchange, key in sorted(wanted - found):
                self._note("create", "binding", queue, f"key '{key}' of {exchange}")
            for exchange, key in sorted(found - wanted):
                # Whoever bound it to an exchange that the topology does not know meant it.
                if exchange in external or exchange.startswith(f"{self.topology.name}."):
                    self._note("delete", "binding", queue, f"key '{key}' of {exchange}")
                    yield queue, exchange, key

    # -- what is left over ---------------------------------------------------------------------

    def _wanted_queues(self) -> set[str]:
        names, topology = self._names, self.topology
        found = {f"{topology.name}.lock", *map(names.schedule, topology.schedules)}
        for queue in topology.queues.values():
            found |= {names.dead(queue), queue.external_name}
            found |= {
                names.delay(queue, round(delay * 1000)) for delay in queue.retry.delays_seconds
            }
        for consumer in self._on_no_ring():
            before = (names.before, names.gate_held)
            found |= {names.queue(consumer), *(name(consumer) for name in before)}
        for exchange in topology.exchanges.values():
            if exchange.hashed:
                beside = (names.held, names.generations, names.ledger)
                found |= {name(exchange.name) for name in beside}
        for generation in self._generations():
            found |= {names.member(generation, member) for member, _ in generation.members}
        return found

    def _generations(self) -> Iterator[Generation]:
        """Yield those that are, and those to come: a crash may have declared these already."""
        for exchange in self.topology.exchanges.values():
            if not exchange.hashed:
                continue
            wanted = self.topology.generation(exchange.name)
            state = self.states.get(exchange.name)
            if state is None:
                yield wanted
            else:
                yield from (state.current, *state.draining, switch.successor(state, wanted))

    def _wanted_exchanges(self) -> set[str]:
        names, topology = self._names, self.topology
        found = {names.exchange(exchange) for exchange in topology.exchanges}
        found |= set(projects.marks(topology))
        for queue in topology.queues.values():
            found |= {
                names.delay(queue, round(delay * 1000)) for delay in queue.retry.delays_seconds
            }
        for consumer in self._on_no_ring():
            own = (names.before, names.gate, names.gate_held)
            found |= {name(consumer) for name in own}
        for exchange in topology.exchanges.values():
            if exchange.hashed:
                found |= {names.held(exchange.name), names.packs(exchange.name)}
        found |= timer_objects.exchanges_of_timer(names)
        return found | {names.ring(one) for one in self._generations()}

    def _leftover_queues(self) -> tuple[list[str], list[str], list[str]]:
        """Return those that consumers empty first, all to be deleted, and those not when empty."""
        leaving, deleted, nonempty = [], [], []
        wanted, schedules = self._wanted_queues(), self._names.schedule("")
        kept = re.compile(rf"{re.escape(self.topology.name)}\..+\.generations(\.ledger)?")
        for name, found in self.seen.queues.items():
            if name in wanted or self._kept_apart(name, found):
                continue
            if name.startswith(schedules):
                deleted.append(name)
                nonempty.append(name)
                self._note(
                    *("delete", "schedule", name.removeprefix(schedules)),
                    "no longer in the topology; the time of its last firing is deleted",
                )
                continue
            if kept.fullmatch(name):
                deleted.append(name)
                nonempty.append(name)
                self._note(
                    "delete",
                    "queue",
                    name,
                    "its exchange is not of type x-consistent-hash any more",
                )
                continue
            waiting = found.messages
            if not waiting:
                deleted.append(name)
                self._note("delete", "queue", name, f"{self._why(name)}; it is empty")
            elif self._named(name):
                deleted.append(name)
                nonempty.append(name)
                remedy = "it is not empty, and --delete-nonempty deletes it with its messages"
                self._note("delete", "queue", name, f"{self._why(name)}; {remedy}", waiting)
            elif self._consumed(name):
                leaving.append(name)
                deleted.append(name)
                remedy = "its consumers empty it first"
                self._note("delete", "queue", name, f"{self._why(name)}; {remedy}", waiting)
            else:
                bare = re.sub(
                    r"\.(dead|retry\.\d+)$", "", name.removeprefix(f"{self.topology.name}.")
                )
                remedy = (
                    "no consumer empties it. Put it back into the topology, or delete it with"
                    f" its messages: --delete-nonempty {bare}"
                )
                if self._names.is_of_timer(name):
                    remedy = f"empty it, or name it: --delete-nonempty {bare}"
                self._note("dangerous", "queue", name, f"{self._why(name)}; {remedy}", waiting)
        # Also those that are empty now get messages until they are unbound.
        leaving += [name for name in deleted if self._consumed(name) and name not in leaving]
        return leaving, deleted, nonempty

    def _kept_apart(self, name: str, found: SeenQueue) -> bool:
        """Whether a queue is not a queue's or an exchange's of the topology, and stays."""
        return self._of_timer(name, found) or self._odd_delay(found) or self._parked(name)

    def _of_timer(self, name: str, found: SeenQueue) -> bool:
        """Whether a queue is one of the timer, as it should be."""
        wanted = self.timer_queues.get(name)
        return wanted is not None and not differing(found.arguments, wanted)

    def _odd_delay(self, found: SeenQueue) -> bool:
        """Whether a handler's own retries of version 0.1 wait there; the broker deletes it."""
        return ".retry." in found.name and "x-expires" in found.arguments

    def _parked(self, name: str) -> bool:
        delay = name.removesuffix(".parked")
        known = replacement.parked_delays(self.topology, self.seen)
        return name.endswith(".parked") and delay in {waiting for _, waiting in known}

    def _named(self, name: str) -> bool:
        bare = name.removeprefix(f"{self.topology.name}.")
        for doomed in self.doomed:
            bare_name = doomed.removeprefix(f"{self.topology.name}.")
            if re.fullmatch(re.escape(bare_name) + OWN, bare):
                self.named.add(doomed)
                return True
        return False

    def _consumed(self, name: str) -> bool:
        """Whether somebody reads it, or the queue to which what it holds comes back."""
        if self.seen.queues[name].consumers:
            return True
        retry = re.fullmatch(r"(.+)\.retry\.\d+", name)
        if retry is None:
            return False
        queue = self.seen.queues.get(retry[1])
        return queue is not None and queue.consumers > 0

    def _why(self, name: str) -> str:
        wanted = self.timer_queues.get(name)
        if wanted is not None:
            found = differing(self.seen.queues[name].arguments, wanted)
            changes = (f"{key} {old} to {new}" for key, (old, new) in found.items())
            return f"declared anew with {', '.join(changes)}, so that messages can be delayed again"
        derived = OF_A_QUEUE.fullmatch(name) or re.fullmatch(r"(.+)\.dead", name)
        owner = derived[1].removeprefix(f"{self.topology.name}.") if derived else ""
        queue = re.sub(r"_\d+$", "", owner)
        if owner and (owner in self.topology.queues or queue in self.topology.queues):
            kind = "the retry policy" if ".retry." in name else "any ring"
            return f"no longer part of {kind}"
        return "no longer in the topology"

    def _leftover_exchanges(self) -> Iterator[str]:
        wanted = self._wanted_exchanges()
        queues = self.seen.queues
        found = []
        for name in self.seen.exchanges:
            odd = name in queues and self._odd_delay(queues[name])
            if name in wanted or odd or self._parked(name):
                continue
            found.append(name)
            self._note("delete", "exchange", name, self._why(name))
        # Entries first: what is published to a ring that is to go must not be lost in the ring.
        yield from sorted(found, key=lambda name: (OF_A_RING.fullmatch(name) is not None, name))
