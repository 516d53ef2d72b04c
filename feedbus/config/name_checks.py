"""Check the names of exchanges, consumers and processes for conflicts and length.

The check yields faults: mistakes in the file, each with the path of the wrong name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from feedbus.broker_names import LOCK, OF_A_QUEUE, OF_AN_EXCHANGE, Role, role_of
from feedbus.config.draft import Draft, Faults
from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault
from feedbus.topology import OPERATIONS

LONGEST_NAME_BYTES = 255  # the limit of AMQP
# The length of the longest suffix that feedbus adds to a name on the broker: the digest of a
# generation, and the longest delay of a retry queue in milliseconds.
LONGEST_SUFFIX = len(".01234567.retry.4233600000")


def check_names(draft: Draft) -> Faults:
    """Yield a fault for each name that is reserved, too long, or in conflict with another name.

    The names are those of exchanges, consumers and processes.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each wrong name in topology.toml, with its fault: what is wrong.

    """
    prefix = draft.loaded.get("name", "")
    if prefix == "amq" or prefix.startswith("amq."):
        yield (
            ("name",),
            Fault(
                expected="another name, because the broker reserves names that begin with 'amq.'"
            ),
        )
    exchanges = draft.loaded.get("exchanges", {})
    yield from _differing_in_case("exchange", ((name, ("exchanges", name)) for name in exchanges))
    yield from _differing_in_case("consumer or process", _started(draft))
    of_queues = [*_consumers(draft), *((queue, ("queues", queue)) for queue in draft.queues)]
    named = [*((name, ("exchanges", name)) for name in exchanges), *of_queues]
    yield from _derived(OF_AN_EXCHANGE, named, {*exchanges})
    yield from _derived(OF_A_QUEUE, named, {name for name, _ in of_queues})
    if draft.loaded.get("operations", {}).get("enabled", True):
        yield from _operations(draft)
    if LOCK in draft.queues:
        reason = f"feedbus itself uses the queue '{LOCK}' as the lock of the topology"
        yield ("queues", LOCK), _reserved(reason)
    for name in exchanges:
        yield from _length(prefix, name, ("exchanges", name))
    for name in draft.loaded.get("schedules", {}):
        yield from _length(prefix, name, ("schedules", name))
    for queue, options in draft.queues.items():
        shard = f"_{options['shards'] - 1}" if "shards" in options else ""
        yield from _length(prefix, f"{queue}{shard}", ("queues", queue))


def _consumers(draft: Draft) -> Iterator[tuple[str, KeyPath]]:
    """Yield the name of each consumer, with the path of its queue's table.

    The consumers of shards come first. A conflict is reported at the second one of two equal names,
    so it is reported at the queue without shards.
    """
    for sharded in (True, False):
        for queue, options in draft.queues.items():
            if ("shards" in options) != sharded:
                continue
            numbers = [f"_{shard}" for shard in range(options["shards"])] if sharded else [""]
            yield from ((f"{queue}{number}", ("queues", queue)) for number in numbers)


def _started(draft: Draft) -> Iterator[tuple[str, KeyPath]]:
    """Yield the name of each consumer and of each process in [processes], with its path."""
    yield from _consumers(draft)
    yield from ((name, ("processes", name)) for name in draft.loaded.get("processes", {}))


def _operations(draft: Draft) -> Faults:
    """Yield a fault for each consumer or process with the name of the operations process."""
    for name, path in _started(draft):
        if name.casefold() == OPERATIONS:
            yield path, _reserved(f"'{name}' is a process of feedbus itself, see [operations]")


def _differing_in_case(what: str, named: Iterator[tuple[str, KeyPath]]) -> Faults:
    """Yield a fault for each name that equals an earlier name, or differs from it only in case.

    feedbus uses the names as file names, and some file systems ignore the case of file names.

    Args:
        what: the kind of object in the fault, such as "exchange".
        named: the names, each with its path in the file.

    """
    owners: dict[str, tuple[str, KeyPath]] = {}
    reported: set[tuple[KeyPath, KeyPath]] = set()
    for name, path in named:
        first, owner = owners.setdefault(name.casefold(), (name, path))
        if owner == path or (owner, path) in reported:  # two tables can have many equal names
            continue
        reported.add((owner, path))
        same = "is" if first == name else f"differs only in case from '{first}', which is"
        table = ".".join(map(str, owner))
        message = (
            f"expected another name: '{name}' {same} already the name of a {what} of [{table}]"
        )
        yield path, Fault(message=message, expected="another name", got=f"'{name}'", at_key=True)


def _derived(
    roles: Collection[Role], named: Iterable[tuple[str, KeyPath]], owners: Collection[str]
) -> Faults:
    """Yield a fault for each name in the file that feedbus itself uses for one of its objects.

    For example, a queue `orders` has the object `orders.dead`, the queue of its dead letters. So no
    other queue can be called `orders.dead`.

    Args:
        roles: what these objects of feedbus are for, such as dead letters.
        named: the names to check, each with its path in the file.
        owners: the names of the queues and consumers, or of the exchanges, that have such objects.

    """
    reported: set[KeyPath] = set()
    for name, path in named:
        for dot in re.finditer(r"\.", name):
            owner = name[: dot.start()]
            if owner in owners and role_of(name[dot.end() :]) in roles and path not in reported:
                reported.add(path)
                yield path, _reserved(f"'{name}' is a name that feedbus itself uses for '{owner}'")


def _reserved(reason: str) -> Fault:
    return Fault(message=f"expected another name: {reason}", expected="another name", at_key=True)


def _length(prefix: str, name: str, path: KeyPath) -> Faults:
    """Yield a fault if a name is too long for the broker, with its prefix and longest suffix."""
    most = LONGEST_NAME_BYTES - LONGEST_SUFFIX - len(f"{prefix}.")
    if len(name) > most:
        message = (
            f"expected a name of at most {most} characters, got {len(name)}: the broker accepts "
            f"{LONGEST_NAME_BYTES} bytes, and feedbus adds a prefix and a suffix to the name"
        )
        yield (
            path,
            Fault(
                message=message,
                expected=f"at most {most} characters",
                got=str(len(name)),
                at_key=True,
            ),
        )
