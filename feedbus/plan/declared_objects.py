"""Compare the objects that a topology declares with the objects on the broker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from feedbus.broker import queue_arguments, timer_bindings, timer_layout
from feedbus.broker.differences import differences_text, find_differences
from feedbus.broker.interface import SeenBinding
from feedbus.broker.inventory import Inventory
from feedbus.broker_names import PARKED, Names
from feedbus.cron import Cron
from feedbus.generations import queue_replacement, retry_queue_replacement
from feedbus.plan.changes import DEAD_LETTERS, RETRIES, Change, Kind
from feedbus.topology import Consumer, Exchange, Schedule, Topology


def consumers_on_no_ring(topology: Topology) -> Iterator[Consumer]:
    """Yield each consumer whose queue is on no ring, unless the queue is external.

    An external queue belongs to another system. feedbus does not declare or change it.

    Args:
        topology: the topology.

    """
    for consumer in topology.consumers.values():
        if not consumer.queue.external_name and not topology.on_ring(consumer.queue):
            yield consumer


def schedule_text(schedule: Schedule) -> str:
    """Return a text with the main options of a schedule and its next moment.

    Args:
        schedule: the schedule.

    """
    cron = Cron.of(schedule)
    following = cron.next_after(datetime.now(UTC)).astimezone(cron.zone).isoformat()
    return (
        f"'{schedule.cron}' in {schedule.timezone}, to {schedule.exchange}; its next moment is"
        f" {following}"
    )


@dataclass(slots=True)
class DeclaredObjects:
    """Compares the declared objects with the broker's objects, and adds each change to a list.

    Comparison.compare(), which finds the changes of a plan, creates one DeclaredObjects object.

    Attributes:
        topology: the wanted state.
        seen: the objects that the broker has.
        changes: the list to which the methods add changes.

    """

    topology: Topology
    seen: Inventory
    changes: list[Change]

    @property
    def _names(self) -> Names:
        return Names(self.topology)

    def _note(self, action: Any, kind: Kind, name: str, reason: str, messages: int = 0) -> None:
        self.changes.append(Change(action, kind, name, reason, messages))

    def exchanges(self) -> Iterator[str]:
        """Add to `changes` the changes of exchanges.

        Yields:
            The name on the broker of each exchange that must be declared again.

        """
        for exchange in self.topology.exchanges.values():
            if exchange.external_name:
                continue
            name = self._names.exchange(exchange.name)
            kind, arguments = self._type_and_arguments(exchange)
            found = self.seen.exchanges.get(name)
            if found is None:
                self._note("create", "exchange", name, f"{exchange.type}, new in the topology")
            elif found.type != kind or find_differences(found.arguments, arguments):
                was = found.type if found.type != kind else "other arguments"
                self._note(
                    *("change", "exchange", name),
                    f"{exchange.type}, was {was}: deleted and declared again; the broker refuses"
                    " publishers until it is declared",
                )
                yield name

    def _type_and_arguments(self, exchange: Exchange) -> tuple[str, Mapping[str, Any]]:
        """Return the declared type and arguments of an exchange.

        For a hash exchange, they are those of its entry, the fanout exchange in front of its ring.
        """
        if exchange.hashed:
            return "fanout", {"alternate-exchange": self._names.held(exchange.name)}
        return exchange.type, exchange.arguments

    def queues(self) -> Iterator[str]:
        """Add to `changes` the changes of queues that are on no ring.

        Yields:
            The name of each consumer whose queue is replaced by a new queue.

        """
        for consumer in consumers_on_no_ring(self.topology):
            name = self._names.queue(consumer)
            if queue_replacement.is_begun(self.topology, consumer, self.seen):
                found = self.seen.queues.get(name)
                self._note(
                    *("change", "queue", name),
                    "its replacement was interrupted and is completed",
                    found.messages if found else 0,
                )
                yield consumer.name
            elif name not in self.seen.queues:
                on = self._names.exchange(consumer.queue.exchange)
                self._note("create", "queue", name, f"new in the topology, bound to {on}")
            elif queue_replacement.has_other_arguments(self.topology, consumer, self.seen):
                found = self.seen.queues[name]
                wanted = queue_arguments.declared_arguments(self._names, consumer.queue)
                self._note(
                    *("change", "queue", name),
                    f"{differences_text(found.arguments, wanted)}; replaced by a new queue, which"
                    " gets its messages",
                    found.messages,
                )
                yield consumer.name

    def parked_retry_queues(self) -> None:
        """Add to `changes` a change for each queue with parked retries.

        `feedbus apply` moves (parks) retries to such a queue while it declares their retry queue
        again. If this command is killed meanwhile, the next `feedbus apply` moves the retries back.
        """
        for _, name in retry_queue_replacement.parked_retry_queues(self.topology, self.seen):
            parked = self.seen.queues[name + PARKED].messages
            reason = "an interrupted apply has moved its retries to another queue; they come back"
            self._note("change", "queue", name, reason, parked)

    def retry_queues(self) -> Iterator[tuple[str, str]]:
        """Add to `changes` the changes of retry queues and of queues for dead letters.

        Yields:
            Each retry queue that must be declared again, as (queue in topology.toml, retry queue on
            the broker).

        """
        for queue in self.topology.queues.values():
            for name in retry_queue_replacement.wrong_retry_queues(self.topology, queue, self.seen):
                self._note(
                    *("change", "queue", name),
                    "its arguments have changed: it is declared again, and the waiting times of"
                    " its retries begin again",
                    self.seen.queues[name].messages,
                )
                yield queue.name, name
            for delay in queue.retry.delays_milliseconds:
                name = self._names.retry_queue(queue, delay)
                if name not in self.seen.queues:
                    self._note("create", "queue", name, RETRIES)
            if self._names.dead(queue) not in self.seen.queues:
                self._note("create", "queue", self._names.dead(queue), DEAD_LETTERS)

    def schedules(self) -> None:
        """Add to `changes` a change for each schedule that has no queue on the broker yet.

        In this queue, feedbus keeps the moment at which the schedule was last fired.
        """
        for schedule in self.topology.schedules.values():
            if self._names.schedule(schedule.name) not in self.seen.queues:
                self._note("create", "schedule", schedule.name, schedule_text(schedule))

    def timer(self) -> Iterator[SeenBinding]:
        """Add to `changes` the changes of the timer.

        The timer is the set of exchanges and queues in which delayed messages wait. The changes are
        missing queues, missing bindings, and bindings that feedbus has not declared.

        Yields:
            Each binding that feedbus has not declared. `feedbus apply` removes these bindings.

        """
        names, queues = self._names, timer_layout.queues_of_timer(self._names)
        for name in timer_layout.missing_queues(names, self.seen.queues):
            self._note("create", "queue", name, "missing; delayed messages wait there")
        for one in timer_bindings.missing_bindings(names, self.seen, queues):
            reason = f"missing; it brings delayed messages from {one.source}"
            self._note("create", "binding", one.destination, reason)
        for one in timer_bindings.foreign_bindings(names, self.seen, queues):
            reason = (
                "not declared by feedbus; with this binding, delayed messages of"
                f" {one.source} arrive twice"
            )
            self._note("delete", "binding", one.destination, reason)
            yield one

    def bindings(self) -> Iterator[tuple[str, str, str]]:
        """Add to `changes` the changes of bindings between exchanges and queues.

        Yields:
            Each binding that must be removed, as (queue on the broker, exchange on the broker,
            binding key).

        """
        external = {one.external_name for one in self.topology.exchanges.values()}
        for consumer in consumers_on_no_ring(self.topology):
            queue = self._names.queue(consumer)
            is_replacing = queue_replacement.is_begun(self.topology, consumer, self.seen)
            if queue not in self.seen.queues or is_replacing:
                continue  # the declaration or the replacement also binds the queue
            source = self._names.exchange(consumer.queue.exchange)
            wanted = {(source, key) for key in queue_arguments.binding_keys(consumer.queue)}
            found = {(one.source, one.key) for one in self.seen.bound_to("queue", queue)}
            for exchange, key in sorted(wanted - found):
                self._note("create", "binding", queue, f"key '{key}' of {exchange}")
            for exchange, key in sorted(found - wanted):
                # The name of an exchange of the project begins with the name of the topology. If
                # the exchange belongs to another system, and the topology does not name it, another
                # program or an operator has made the binding. Such a binding stays.
                if exchange in external or exchange.startswith(f"{self.topology.name}."):
                    self._note("delete", "binding", queue, f"key '{key}' of {exchange}")
                    yield queue, exchange, key
