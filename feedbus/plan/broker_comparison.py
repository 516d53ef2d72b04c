"""Compare the broker's objects with a topology; find objects that the topology does not need."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.broker import project_marks, timer_layout
from feedbus.broker.differences import differences_text, find_differences
from feedbus.broker.interface import SeenQueue
from feedbus.broker.inventory import Inventory
from feedbus.broker_names import (
    OF_AN_EXCHANGE,
    Names,
    Role,
    belongs_to_queue,
    derived,
    has_role,
    lock_queue,
    queue_of,
)
from feedbus.generations import retry_queue_replacement, switch
from feedbus.generations.ring_state import RingState
from feedbus.plan.changes import Change, Kind, ObjectsToChange
from feedbus.plan.declared_objects import DeclaredObjects, consumers_on_no_ring
from feedbus.topology import Generation, Topology
from feedbus.units import write_duration

# Exchanges of these roles belong to an entry, the exchange in front of a ring, or to a gate, the
# exchange in front of a queue that is being replaced. Entries and gates are deleted first.
BEHIND_AN_ENTRY = {*OF_AN_EXCHANGE, Role.GATE_HELD}
OF_RETRIES_AND_DEAD = {Role.DEAD, Role.RETRY, Role.PARKED}


@dataclass(slots=True)
class Comparison:
    """Compares a topology with the broker's inventory and the states of its rings.

    make_plan() creates one Comparison object, and calls compare() once.

    Attributes:
        topology: the wanted state.
        seen: the objects that the broker has.
        states: maps the name of each hash exchange to the state of its ring.
        delete_nonempty: names of queues that may be deleted with their messages.
        removed: the names of the consumers that the supervisor of this host still has, but that are
            not in the topology any more. These consumers empty their queues before they end.
        changes: the changes; compare() adds them.
        matched_names: the names in delete_nonempty for which compare() has found a queue that has
            messages and will be deleted.
        timer_queues: maps the name of each queue for delayed messages to its arguments.
        waiting_queues: maps the name of each waiting queue to whether it is needed. It is not
            needed if the consumer's queue has no `order_by` any more. The waiting queue of a shard
            that was removed from the topology is still needed.
        parked_queues: the names of the queues that contain parked retries: an interrupted `feedbus
            apply` has moved the retries there, to declare their retry queue again.

    """

    topology: Topology
    seen: Inventory
    states: Mapping[str, RingState]
    delete_nonempty: Collection[str]
    removed: Collection[str] = ()
    changes: list[Change] = field(default_factory=list)
    matched_names: set[str] = field(default_factory=set)
    timer_queues: Mapping[str, Mapping[str, Any]] = field(init=False)
    waiting_queues: Mapping[str, bool] = field(init=False)
    parked_queues: Collection[str] = field(init=False)

    def __post_init__(self) -> None:
        """Compute `timer_queues`, `waiting_queues` and `parked_queues`."""
        self.timer_queues = timer_layout.queues_of_timer(self._names)
        self.waiting_queues = self._find_waiting_queues()
        parked = retry_queue_replacement.parked_retry_queues(self.topology, self.seen)
        self.parked_queues = {self._names.parked_retries(delay) for _, delay in parked}

    def compare(self) -> ObjectsToChange:
        """Add all changes to `changes`; return the names of the objects that change.

        make_plan() calls this. `feedbus apply` then changes these objects.
        """
        declared = DeclaredObjects(self.topology, self.seen, self.changes)
        exchanges = tuple(declared.exchanges())
        replaced = tuple(declared.queues())
        retry_queues = tuple(declared.retry_queues())
        declared.parked_retry_queues()
        declared.schedules()
        timer_bindings = tuple(declared.timer())
        bindings = tuple(declared.bindings())
        self._refuse_rings_without_shards()
        to_empty, deleted, nonempty = self._leftover_queues()
        return ObjectsToChange(
            exchanges=exchanges,
            replaced=replaced,
            retry_queues=retry_queues,
            bindings_to_remove=bindings,
            timer_bindings_to_remove=timer_bindings,
            queues_to_empty=tuple(to_empty),
            deleted_queues=tuple(deleted),
            used_by_others=tuple(
                name for name in deleted if self._is_used_by_another_program(self.seen.queues[name])
            ),
            nonempty=tuple(nonempty),
            deleted_exchanges=tuple(self._leftover_exchanges()),
        )

    def _refuse_rings_without_shards(self) -> None:
        """Add a dangerous change for each ring whose last queue was removed."""
        for name, state in self.states.items():
            if switch.loses_all_shards(state, self.topology.generation(name)):
                self._note("dangerous", "ring", name, switch.NO_SHARDS.format(exchange=name))

    @property
    def _names(self) -> Names:
        return Names(self.topology)

    def _note(self, action: Any, kind: Kind, name: str, reason: str, messages: int = 0) -> None:
        self.changes.append(Change(action, kind, name, reason, messages))

    def _wanted_queues(self) -> set[str]:
        """Return the names of all queues that the topology or an unfinished change needs."""
        names, topology = self._names, self.topology
        found = {lock_queue(topology.name), *map(names.schedule, topology.schedules)}
        for queue in topology.queues.values():
            found |= {names.dead(queue), queue.external_name}
        found |= self._wanted_retry_queues()
        for consumer in consumers_on_no_ring(self.topology):
            of_replacement = (names.before, names.gate_held)
            found |= {names.queue(consumer), *(name(consumer) for name in of_replacement)}
        for exchange in topology.exchanges.values():
            if exchange.hashed:
                beside = (names.held, names.generations, names.ledger)
                found |= {name(exchange.name) for name in beside}
        for generation in self._generations():
            found.update(names.members(generation))
        return found | {name for name, used in self.waiting_queues.items() if used}

    def _wanted_retry_queues(self) -> set[str]:
        names = self._names
        return {
            names.retry_queue(queue, delay)
            for queue in self.topology.queues.values()
            for delay in queue.retry.delays_milliseconds
        }

    def _find_waiting_queues(self) -> dict[str, bool]:
        """Map the name of each waiting queue to whether the topology still needs the queue."""
        names, consumers = self._names, self.topology.consumers
        found = {
            names.queue(consumer): bool(consumer.queue.order_by)
            for consumer in consumers.values()
            if not self.topology.on_ring(consumer.queue)
        }
        for generation in self._generations():
            for member, _ in generation.members:
                # A shard that was removed from the topology may still have a waiting queue.
                ordered = member not in consumers or bool(consumers[member].queue.order_by)
                found[names.member(generation, member)] = ordered
        return {names.waiting(queue): ordered for queue, ordered in found.items()}

    def _generations(self) -> Iterator[Generation]:
        """Yield the generations in the states, and the next generation of each exchange.

        An interrupted `feedbus apply` may have declared objects of the next generation already.
        """
        for exchange in self.topology.exchanges.values():
            if not exchange.hashed:
                continue
            wanted = self.topology.generation(exchange.name)
            state = self.states.get(exchange.name)
            if state is None:
                yield wanted
            else:
                yield from (state.current, *state.draining, switch.next_generation(state, wanted))

    def _wanted_exchanges(self) -> set[str]:
        names, topology = self._names, self.topology
        found = {names.exchange(exchange) for exchange in topology.exchanges}
        found |= set(project_marks.marks(topology)) | self._wanted_retry_queues()
        for consumer in consumers_on_no_ring(self.topology):
            own = (names.before, names.gate, names.gate_held)
            found |= {name(consumer) for name in own}
        for exchange in topology.exchanges.values():
            if exchange.hashed:
                found |= {names.held(exchange.name), names.packs(exchange.name)}
        found |= timer_layout.exchanges_of_timer(names)
        return found | {names.ring(one) for one in self._generations()}

    def _leftover_queues(self) -> tuple[list[str], list[str], list[str]]:
        """Add a change for each queue that exists, but is not needed by the topology.

        Returns:
            Three lists of names: the queues that consumers empty first, all queues to delete, and
            the queues to delete with their messages.

        """
        to_empty, deleted, nonempty = [], [], []
        wanted = self._wanted_queues()
        for name, found in self.seen.queues.items():
            if name in wanted or self._must_be_kept(name, found):
                continue
            message_count = found.messages
            state = self._state_kept_in(name)
            if self._is_used_by_another_program(found):
                deleted.append(name)
                self._note(
                    "dangerous",
                    "queue",
                    name,
                    f"{self._why(name)}; another program consumes from it. Stop that program. If it"
                    f" belongs to another project, give that project another name than"
                    f" '{self.topology.name}'",
                    message_count,
                )
            elif state is not None:
                deleted.append(name)
                nonempty.append(name)
                self._note("delete", *state)
            elif not message_count:
                deleted.append(name)
                if self._matching_names(name):
                    # The queue may get messages again: from its retry queues, or from consumers
                    # that have received messages. `feedbus apply` waits for none of these messages,
                    # because --delete-nonempty names the queue.
                    nonempty.append(name)
                self._note("delete", "queue", name, f"{self._why(name)}; it is empty")
            elif matched := self._matching_names(name):
                self.matched_names |= matched
                deleted.append(name)
                nonempty.append(name)
                consequence = "it is not empty, and --delete-nonempty deletes it with its messages"
                self._note(
                    "delete", "queue", name, f"{self._why(name)}; {consequence}", message_count
                )
            elif self._has_consumer(name):
                to_empty.append(name)
                deleted.append(name)
                consequence = f"its consumers empty it first{_longest_wait(found)}"
                self._note(
                    "delete", "queue", name, f"{self._why(name)}; {consequence}", message_count
                )
            else:
                remedy = f"{self._why(name)}; {self._remedy(name)}"
                self._note("dangerous", "queue", name, remedy, message_count)
        # A queue that is empty now can still get messages until it is unbound. So its consumers
        # empty it before it is deleted.
        to_empty += [name for name in deleted if self._has_consumer(name) and name not in to_empty]
        return to_empty, deleted, nonempty

    def _remedy(self, name: str) -> str:
        """Return what to do with a queue that has messages, and that no consumer empties."""
        made = derived(name)
        owner = made.owner if made and made.role in OF_RETRIES_AND_DEAD else name
        command = f"feedbus apply --delete-nonempty {self._without_prefix(owner)}"
        delete = f"delete it with its messages: `{command}`"
        if self._names.is_of_timer(name):
            return f"empty it, or {delete}"
        if made is not None:
            return f"no consumer empties it. Put it back into the topology, or {delete}"
        return (
            "no consumer empties it. Let its handler empty it: put it back into the topology with"
            " an exchange of its own, run `feedbus apply`, remove it again, run `feedbus apply`. Or"
            f" {delete}"
        )

    def _is_used_by_another_program(self, found: SeenQueue) -> bool:
        """Whether a queue has consumers that do not belong to the project.

        The consumers belong to the project if the topology still has the queue, or if this host
        runs one of them. In the second case, the other consumers may run on other hosts.
        """
        return (
            found.consumers > 0
            and self._owner(found.name) not in self.topology.queues
            and not self._has_leaving_consumer(found.name)
        )

    def _has_leaving_consumer(self, name: str) -> bool:
        """Whether this host still runs a removed consumer of a queue.

        A consumer is removed if the topology does not contain it any more. For the queue of a
        shard, a removed consumer of any shard of the same table counts.
        """
        owner = self._owner(name)
        return owner in self.removed or queue_of(owner) in map(queue_of, self.removed)

    def _owner(self, name: str) -> str:
        """Return the name in the topology of the consumer or queue to which a queue belongs."""
        made = derived(name)
        return self._without_prefix(made.owner if made else name)

    def _state_kept_in(self, name: str) -> tuple[Kind, str, str] | None:
        """Return what the plan shows for the deletion of a queue that only feedbus itself uses.

        Such queues are the queue of a removed schedule, and the readers' queue or the ledger of an
        exchange that has no ring any more.

        Returns:
            The kind of the object, its name, and the reason of the deletion. For a schedule, the
            kind is "schedule" and the name is that of the schedule. Otherwise, the kind is "queue".
            The result is None for any other queue.

        """
        schedules = self._names.schedule("")
        if name.startswith(schedules):
            reason = "no longer in the topology; the time of its last firing is deleted"
            return "schedule", name.removeprefix(schedules), reason
        if has_role(name, {Role.GENERATIONS, Role.LEDGER}):
            return "queue", name, "its exchange is not of type x-consistent-hash any more"
        return None

    def _must_be_kept(self, name: str, found: SeenQueue) -> bool:
        """Whether a queue must be kept although no table of the topology declares it.

        This is true for three kinds of queues: a queue for delayed messages with the correct
        arguments, a retry queue of feedbus 0.1, and a queue with parked retries.
        """
        return (
            self._is_correct_timer_queue(name, found)
            or self._is_old_retry_queue(found)
            or name in self.parked_queues
        )

    def _is_correct_timer_queue(self, name: str, found: SeenQueue) -> bool:
        """Whether a queue is one of `timer_queues`, and has the correct arguments."""
        wanted = self.timer_queues.get(name)
        return wanted is not None and not find_differences(found.arguments, wanted)

    def _is_old_retry_queue(self, found: SeenQueue) -> bool:
        """Whether a queue is a retry queue of feedbus 0.1.

        Such a queue has the argument x-expires, so the broker deletes the queue by itself.
        """
        return has_role(found.name, {Role.RETRY}) and "x-expires" in found.arguments

    def _matching_names(self, name: str) -> set[str]:
        """Return the names in `delete_nonempty` to which a queue belongs."""
        bare = self._without_prefix(name)
        return {
            given
            for given in self.delete_nonempty
            if belongs_to_queue(bare, self._without_prefix(given))
        }

    def _without_prefix(self, name: str) -> str:
        """Return a name without the prefix of the topology."""
        return name.removeprefix(f"{self.topology.name}.")

    def _has_consumer(self, name: str) -> bool:
        """Whether a consumer will empty a queue: usually, whether a consumer reads it.

        There are four exceptions:

        - `order_by` was removed: the result for the waiting queue is False, because the consumer
          does not read the waiting queue after the change.
        - The consumer stays in the topology, but reads another queue after the change: the result
          is False.
        - A retry queue has no consumer: the result is whether a consumer reads the queue to which
          the retries return. Without `order_by`, the retries of shards return to their ring: the
          result is whether this host still runs a removed consumer of one of the shards.
        - A queue with parked retries has no consumer: `feedbus apply` returns the retries to their
          ring if the ring is removed. Then the result is that of the retry queue.
        """
        if self.seen.queues[name].consumers:
            return name not in self.waiting_queues and self._has_leaving_consumer(name)
        made = derived(name)
        if made is None or made.role not in {Role.RETRY, Role.PARKED}:
            return False
        if made.role is Role.PARKED and not self._loses_ring(made.owner):
            return False  # nothing would move the retries
        queue = self.seen.queues.get(made.owner)
        return queue.consumers > 0 if queue is not None else self._has_leaving_consumer(name)

    def _loses_ring(self, owner: str) -> bool:
        """Whether the entry of a ring with shards of a queue is removed from the topology.

        Args:
            owner: the name of the sharded queue, with the topology's name.

        """
        wanted = self._wanted_exchanges()
        return any(
            retry_queue_replacement.shards_behind(self.seen, entry, owner)
            for entry in self.seen.exchanges
            if entry not in wanted
        )

    def _why(self, name: str) -> str:
        """Return why a queue or an exchange is deleted."""
        wanted = self.timer_queues.get(name)
        if wanted is not None:
            changes = differences_text(self.seen.queues[name].arguments, wanted)
            return f"declared again with {changes}, so that messages can be delayed again"
        if name in self.waiting_queues:  # deleted only if its queue has no `order_by` any more
            return "a waiting queue, but its queue has no order_by any more"
        made = derived(name)
        owner = self._without_prefix(made.owner) if made else ""
        if made and (owner in self.topology.queues or queue_of(owner) in self.topology.queues):
            retries = made.role in {Role.RETRY, Role.PARKED}
            kind = "the retry policy" if retries else "any ring"
            return f"no longer part of {kind}"
        return "no longer in the topology"

    def _leftover_exchanges(self) -> Iterator[str]:
        """Add a change for each exchange that the topology does not need; yield its name."""
        wanted = self._wanted_exchanges()
        queues = self.seen.queues
        found = []
        for name in self.seen.exchanges:
            is_old_retry = name in queues and self._is_old_retry_queue(queues[name])
            if name in wanted or is_old_retry or name in self.parked_queues:
                continue
            found.append(name)
            self._note("delete", "exchange", name, self._why(name))
        # The entries come first. Otherwise a program could publish a message to the entry of a ring
        # that has no queues any more, and the message would be lost.
        yield from sorted(found, key=lambda name: (has_role(name, BEHIND_AN_ENTRY), name))


def _longest_wait(found: SeenQueue) -> str:
    """Return how long the messages of a retry queue can wait in it; "" for another queue."""
    milliseconds = found.arguments.get("x-message-ttl")
    if not has_role(found.name, {Role.RETRY}) or milliseconds is None:
        return ""
    return f"; a message waits in it for {write_duration(milliseconds / 1000)} at most"
