"""What a broker has under a topology's name, read without declaring or changing anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from feedbus import broker
from feedbus.broker import management, projects
from feedbus.errors import BrokerOutage
from feedbus.topology import Topology
from feedbus.urls import BrokerUrl

if TYPE_CHECKING:
    from feedbus.transports.sqlite.survey import Survey

Kind = Literal["queue", "exchange"]


@dataclass(frozen=True, slots=True)
class SeenExchange:
    """An exchange that the broker has."""

    name: str
    type: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SeenQueue:
    """A queue that the broker has, and what waits in it."""

    name: str
    arguments: Mapping[str, Any]
    ready: int
    unacknowledged: int
    consumers: int

    @property
    def messages(self) -> int:
        """Those that wait and those in consumers' hands."""
        return self.ready + self.unacknowledged


@dataclass(frozen=True, slots=True)
class SeenBinding:
    """A binding that the broker has."""

    source: str
    kind: Kind
    destination: str
    key: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """A topology's exchanges and queues by name, and the bindings between them in their order."""

    exchanges: Mapping[str, SeenExchange]
    queues: Mapping[str, SeenQueue]
    bindings: tuple[SeenBinding, ...]

    def bound_to(self, kind: Kind, destination: str) -> list[SeenBinding]:
        """Return the bindings that lead to a queue or an exchange."""
        return [one for one in self.bindings if (one.kind, one.destination) == (kind, destination)]


def take(topology: Topology) -> Inventory:
    """Read what the broker has under the topology's name.

    Raises:
        BrokerOutage: the broker is away, or the embedded one's file cannot be read.
        UsageError: RabbitMQ's management API does not answer, or not to us.

    """
    if not topology.broker_url.embedded:
        return _rabbitmq(topology)
    found = _surveyed(topology.broker_url)
    return _within(
        topology,
        (SeenExchange(*row) for row in found.exchanges),
        (SeenQueue(*row) for row in found.queues),
        (SeenBinding(source, _kind(kind), *rest) for source, kind, *rest in found.bindings),
    )


def _surveyed(url: BrokerUrl) -> Survey:
    import sqlite3

    if url.file is None:
        from feedbus.transports.memory.broker import find

        return find(url.memory or "").survey()
    from feedbus.transports.sqlite.survey import survey

    try:
        return survey(url.file)
    except (sqlite3.DatabaseError, OSError) as error:
        msg = f"broker file {url.file}: {error}"
        raise BrokerOutage(msg) from error


def _rabbitmq(topology: Topology) -> Inventory:
    exchanges = [
        SeenExchange(one["name"], one["type"], one["arguments"])
        for one in management.listed(topology, "exchanges")
    ]
    bindings = [
        SeenBinding(
            one["source"], _kind(one["destination_type"]), one["destination"], one["routing_key"]
        )
        for one in management.listed(topology, "bindings")
    ]
    held = {
        one["name"]: (one["arguments"], int(one.get("messages_unacknowledged", 0)))
        for one in management.listed(topology, "queues")
        if one["name"].startswith(f"{topology.name}.") and one.get("owner_pid_details") is None
    }
    return _within(topology, exchanges, _counted(topology, held), bindings)


def _counted(
    topology: Topology, held: Mapping[str, tuple[Mapping[str, Any], int]]
) -> list[SeenQueue]:
    """Count what waits now; the management API's own counts are some seconds old."""
    from amqp.exceptions import ChannelError

    found = []
    with (
        broker.connect(topology) as connection,
        broker.outage(connection, topology.broker_url),
    ):
        channel = connection.channel()
        for name, (arguments, unacknowledged) in held.items():
            try:
                told = channel.queue_declare(name, passive=True)
            except ChannelError:  # gone meanwhile, or somebody's own; and the channel with it
                channel = connection.channel()
                continue
            if not told.consumer_count:
                unacknowledged = 0  # noqa: PLW2901 -- nobody can hold any
            found.append(
                SeenQueue(name, arguments, told.message_count, unacknowledged, told.consumer_count)
            )
    return found


def _within(
    topology: Topology,
    exchanges: Iterable[SeenExchange],
    queues: Iterable[SeenQueue],
    bindings: Iterable[SeenBinding],
) -> Inventory:
    all_exchanges = list(exchanges)
    others = projects.others(topology, (one.name for one in all_exchanges))

    def own(name: str) -> bool:
        return name.startswith(f"{topology.name}.") and not name.startswith(others)

    return Inventory(
        {one.name: one for one in all_exchanges if own(one.name)},
        {one.name: one for one in queues if own(one.name)},
        tuple(one for one in bindings if one.source and own(one.destination)),
    )


def _kind(text: str) -> Kind:
    return "queue" if text == "queue" else "exchange"
