"""The bindings of the timer that a broker lacks, and the bindings that must be removed.

The timer keeps delayed messages. The delay is a number with digits of base 16. For each position of
a digit, the timer has an exchange, and a queue for each digit except 0. A message passes them from
the highest position to the lowest, and then the exchange `due`. This exchange sends the message to
its target, a queue or an exchange. A target can have a guard: another exchange in front of it. See
feedbus.broker.timer, and timer_layout for guards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from feedbus.broker.differences import find_differences
from feedbus.broker.interface import SeenBinding
from feedbus.broker.inventory import Inventory
from feedbus.broker.timer import position_digits
from feedbus.broker.timer_layout import exchanges_of_timer, guard_keys, has_guard
from feedbus.broker_names import Names
from feedbus.wire.constants import TIMER_POSITIONS, TIMER_TARGET


def missing_bindings(
    names: Names, seen: Inventory, queues: Mapping[str, Mapping[str, Any]]
) -> Iterator[SeenBinding]:
    """Yield the missing bindings between existing objects of the timer.

    A queue whose arguments differ from the wanted ones will be declared again, with its bindings.
    So the bindings of such a queue are left out.

    Args:
        names: the names of the topology's objects on the broker.
        seen: the objects that the broker has.
        queues: maps the name of each queue of the timer to the arguments that it should have.

    """
    existing = {_identity(each) for each in seen.timer_bindings}
    for binding in _wanted(names, seen, queues):
        if _identity(binding) not in existing:
            yield binding


def foreign_bindings(
    names: Names, seen: Inventory, queues: Mapping[str, Mapping[str, Any]]
) -> Iterator[SeenBinding]:
    """Yield the bindings that route delayed messages wrongly, or twice.

    feedbus has not declared these bindings. For example, an operator has.

    Args:
        names: the names of the topology's objects on the broker.
        seen: the objects that the broker has.
        queues: maps the name of each queue of the timer to the arguments that it should have.

    """
    wanted_bindings = {_identity(each) for each in _wanted(names, seen, queues)}
    kept_exchanges = exchanges_of_timer(names)  # others are deleted together with their bindings
    for binding in seen.timer_bindings:
        if binding.source not in kept_exchanges or _identity(binding) in wanted_bindings:
            continue
        if binding.kind == "queue" and binding.destination in queues:
            found = seen.queues.get(binding.destination)
            if found is None or find_differences(found.arguments, queues[binding.destination]):
                continue  # the queue is declared again
        if not _routes_to_target(names, binding):
            yield binding


def _wanted(
    names: Names, seen: Inventory, queues: Mapping[str, Mapping[str, Any]]
) -> Iterator[SeenBinding]:
    """Yield the bindings that should exist between the existing objects of the timer."""
    undelivered = names.timer_undelivered

    def usable(queue: str) -> bool:
        found = seen.queues.get(queue)
        return found is not None and not find_differences(found.arguments, queues[queue])

    if undelivered in seen.exchanges and usable(undelivered):
        yield SeenBinding(undelivered, "queue", undelivered, "")
    for position, header in enumerate(TIMER_POSITIONS):
        source = names.timer_position(position)
        if source not in seen.exchanges:
            continue
        # timer_position(-1) is the exchange `due`.
        yield SeenBinding(source, "exchange", names.timer_position(position - 1), "", {header: "0"})
        for digit in position_digits(position):
            queue = names.timer_queue(position, digit)
            if usable(queue):
                yield SeenBinding(source, "queue", queue, "", {header: str(digit)})
    yield from _wanted_of_guards(names, seen)


def _wanted_of_guards(names: Names, seen: Inventory) -> Iterator[SeenBinding]:
    """Yield the bindings that should exist between the existing guards and their exchanges.

    A guard is an exchange in front of an exchange of the topology. The timer sends messages whose
    delay is over to the guard: see has_guard().
    """
    for exchange in names.topology.exchanges.values():
        guard = names.timer_guard(exchange.name)
        if not has_guard(exchange) or guard not in seen.exchanges:
            continue
        for key in guard_keys(names, exchange):
            yield SeenBinding(guard, "exchange", names.exchange(exchange.name), key)


def _routes_to_target(names: Names, binding: SeenBinding) -> bool:
    """Whether a binding routes due messages to their target, or to an object before the target.

    The delay of a due message is over. The target is the queue or exchange for which the message
    was published. The object before the target is a guard (see has_guard()), or the queue of the
    timer through which retries reach an external queue.

    feedbus declares such a binding when the first message needs it. So foreign_bindings() leaves
    the binding out.
    """
    kind, _, target = str(binding.arguments.get(TIMER_TARGET, "")).partition(" ")
    before_target = (names.timer_guard(""), f"{names.timer_prefix}to.")  # prefixes of names
    return (
        binding.source == names.timer_due
        and bool(kind)
        and (binding.destination == target or binding.destination.startswith(before_target))
    )


def _identity(binding: SeenBinding) -> tuple[object, ...]:
    """Return a value that is equal for bindings that route the same messages the same way.

    x-match is left out: feedbus declares all bindings that have header arguments with "all".
    """
    arguments = sorted(
        (name, str(value)) for name, value in binding.arguments.items() if name != "x-match"
    )
    ends = (binding.source, binding.kind, binding.destination, binding.key)
    return (*ends, tuple(arguments))
