"""Marks of projects on a shared broker, so that no project uses another's objects.

The name of everything that a project has on a broker begins with the project's name and a dot. If
one project is called `shop` and another one `shop.eu`, all names of `shop.eu` begin with both
prefixes. To detect such projects, each project declares marks. A mark is an exchange without
bindings. The name of a mark contains a colon, which no name in a topology contains.

If the project `shop` has a queue `mail`, the names of the auxiliary objects of this queue, such as
`shop.mail.dead`, begin with the prefix of a project `shop.mail`. There is no mark for each queue.
So these projects are refused in two places: refuse_shared_prefixes() refuses `shop`, if a list of
all exchanges is available, and declare_marks() refuses `shop.mail`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from feedbus.broker import lookups
from feedbus.errors import UsageError
from feedbus.topology import Topology
from feedbus.wire.amqp_protocols import Channel, Connection

REMEDY = "rename one of them, or give each project its own virtual host"
PROJECT = ".:project"  # a mark `shop.:project` means: there is a project named `shop`
PART = ".:part"  # a mark `shop.eu.:part` means: another project may not be named `shop.eu`


def marks(topology: Topology) -> Iterator[str]:
    """Yield the names of the exchanges that mark a project on its broker.

    Such an exchange has no bindings. The mark `shop.:project` shows that there is a project `shop`.
    If a name in the topology of `shop` has a part before a dot, such as `eu` in `eu.orders`, the
    mark `shop.eu.:part` shows that no other project may be named `shop.eu`.
    """
    yield f"{topology.name}{PROJECT}"
    yield from (f"{topology.name}.{part}{PART}" for part in _parts(topology))


def declare_marks(channel: Channel, topology: Topology) -> None:
    """Declare a project's marks, after a check of the marks of other projects.

    A mark is an exchange without bindings. It shows other projects on the broker which names this
    project uses. This function is called before the other objects of the project are declared.

    Args:
        channel: a channel of the broker.
        topology: the topology of the project.

    Raises:
        UsageError: names of this project and of another project begin with the same prefix.
    """
    connection = channel.connection
    for part in _parts(topology):
        other = f"{topology.name}.{part}"
        if lookups.exchange_exists(connection, other + PROJECT):
            msg = (
                f"names in {topology.path.name} begin with '{part}.', so on the broker they begin"
                f" with '{other}.', like the names of the project '{other}'; {REMEDY}"
            )
            raise UsageError(msg)
    if lookups.exchange_exists(connection, topology.name + PART) or _is_like_a_queue(
        connection, topology
    ):
        msg = (
            f'name = "{topology.name}": another project on the broker has exchanges or queues'
            f" that begin with '{topology.name}.'; {REMEDY}"
        )
        raise UsageError(msg)
    for mark in marks(topology):
        channel.exchange_declare(mark, "fanout", durable=True, auto_delete=False)


def refuse_shared_prefixes(topology: Topology, exchanges: Iterable[str]) -> None:
    """Raise UsageError if another project is named like a queue or an exchange of this project.

    Args:
        topology: the topology of this project.
        exchanges: the names of all exchanges of the broker, including the marks of projects.

    Raises:
        UsageError: objects of this project and of the other one begin with the same prefix.

    """
    prefixes = other_prefixes(topology, exchanges)
    for name in _names_with_auxiliary_objects(topology):
        other = f"{topology.name}.{name}"
        if f"{other}." in prefixes:
            msg = (
                f"'{name}' in {topology.path.name}: names on the broker that belong to it begin"
                f" with '{other}.', like the names of the project '{other}'; {REMEDY}"
            )
            raise UsageError(msg)


def other_prefixes(topology: Topology, exchanges: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes of other projects whose names begin with this project's prefix.

    For example, "shop.eu." is the prefix of the project `shop.eu`, and begins with the prefix of
    the project `shop`. Objects with this prefix do not belong to `shop`.

    Args:
        topology: the topology of this project.
        exchanges: the names of all exchanges of the broker, including the marks of projects.
    """
    return tuple(
        name.removesuffix(PROJECT) + "."
        for name in exchanges
        if name.endswith(PROJECT)
        and name.startswith(f"{topology.name}.")
        and name != topology.name + PROJECT
    )


def _parts(topology: Topology) -> list[str]:
    """Return the dotted prefixes of names in a topology: "a" and "a.b" of "a.b.c"."""
    parts: dict[str, None] = {}
    for name in (*topology.exchanges, *topology.queues):
        words = name.split(".")
        parts |= dict.fromkeys(".".join(words[:count]) for count in range(1, len(words)))
    return list(parts)


def _names_with_auxiliary_objects(topology: Topology) -> list[str]:
    """Return the names of queues, shards and hash exchanges, which have auxiliary objects."""
    exchanges = [name for name, each in topology.exchanges.items() if each.hashed]
    return [*topology.queues, *topology.consumers, *exchanges]


def _is_like_a_queue(connection: Connection, topology: Topology) -> bool:
    """Whether the name of a project is like that of a queue or hash exchange of another project.

    For example, the project is named `shop.mail`, and there is a project `shop` with a queue
    `mail`. Then there is a queue `shop.mail.dead`. If `shop.mail` itself can have a queue of this
    name, the queue is no proof.
    """
    words = topology.name.split(".")
    if not any(
        lookups.exchange_exists(connection, ".".join(words[:count]) + PROJECT)
        for count in range(1, len(words))
    ):
        return False
    own = {*topology.queues, *topology.exchanges}
    return ("dead" not in own and lookups.queue_exists(connection, f"{topology.name}.dead")) or (
        "packs" not in own and lookups.exchange_exists(connection, f"{topology.name}.packs")
    )
