"""The checked content of topology.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from feedbus.errors import UsageError
from feedbus.name_list import expected_one_of
from feedbus.topology.consumers import Consumer
from feedbus.topology.exchanges import Exchange
from feedbus.topology.generation import Generation, shape_of
from feedbus.topology.processes import OPERATIONS, Logging, Operations, Process
from feedbus.topology.queues import Queue
from feedbus.topology.schedules import Schedule
from feedbus.topology.store_options import StoreOptions
from feedbus.urls import BrokerUrl, ManagementUrl, StoreUrl
from feedbus.wrong_argument import refuse

Named = TypeVar("Named", Consumer, Queue, Exchange, Schedule)


@dataclass(frozen=True)
class Topology:
    """The checked content of topology.toml; most functions of feedbus get it.

    feedbus.config.load() creates it from the file. Functions of resources and middleware can
    request it.

    Attributes:
        name: the name of the project, which is the prefix of every name on the broker.
        path: the absolute path of topology.toml.
        broker_url: the URL of the broker.
        exchanges: the exchanges by name.
        queues: the queues by name; a queue with shards is one entry.
        processes: the processes of the tables [processes.NAME], by name.
        commands: maps the names of the project's own commands to dotted names.
        var: the folder for logs, locks and the file of the embedded broker.
        store: the options of the store; None if there is no store.
        management_url: the URL of RabbitMQ's management API; None for the default port on each
            node.
        consumer_timeout_seconds: how long a delivery may stay unacknowledged. After this time,
            RabbitMQ closes the channel of the consumer, or cancels the subscription. So a
            consumer returns deliveries to the broker that would probably exceed this time. The
            embedded broker has no such limit, but its consumers do the same.
        operations: the address of the operations process; None if it is disabled.
        middleware: dotted names, the outermost middleware first.
        codecs: maps content types to dotted names of codecs.
        schedules: the schedules by name.
        logging: the format of the logs.
    """

    # A parameter of a resource can request the Topology.
    __feedbus_parameter__: ClassVar[str] = "topology"

    name: str
    path: Path
    broker_url: BrokerUrl
    exchanges: Mapping[str, Exchange]
    queues: Mapping[str, Queue]
    processes: Mapping[str, Process] = field(default_factory=dict)
    commands: Mapping[str, str] = field(default_factory=dict)
    var: Path = Path("var")
    store: StoreOptions | None = None
    management_url: ManagementUrl | None = None
    consumer_timeout_seconds: float = math.inf
    operations: Operations | None = None
    middleware: tuple[str, ...] = ()
    codecs: Mapping[str, str] = field(default_factory=dict)
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    logging: Logging = field(default_factory=Logging)

    @property
    def store_url(self) -> StoreUrl | None:
        """The URL of the store; None if there is no store, or if its adapter has no URL."""
        return self.store.url if self.store is not None else None

    @property
    def root(self) -> Path:
        """The folder of topology.toml, from which handlers and relative paths are found."""
        return self.path.parent

    @cached_property
    def consumers(self) -> Mapping[str, Consumer]:
        """Every consumer by name, in the order of topology.toml.

        Shards are in the order of numbers.
        """
        found: dict[str, Consumer] = {}
        for queue in self.queues.values():
            if queue.shards is None:
                found[queue.name] = Consumer(queue.name, queue, None, queue.weights[0])
                continue
            for shard, weight in enumerate(queue.weights):
                name = f"{queue.name}_{shard}"
                found[name] = Consumer(name, queue, shard, weight)
        return found

    @cached_property
    def supervised(self) -> Mapping[str, Process]:
        """Every supervised process that is not a consumer, by name.

        The operations process is the last. With `enabled = false` in [operations], there is no
        operations process, and the result has only the processes of the [processes.NAME] tables.
        """
        if self.operations is None:
            return self.processes
        return {**self.processes, OPERATIONS: Process(OPERATIONS, ("feedbus", OPERATIONS))}

    def consumer(self, name: str) -> Consumer:
        """Return the consumer of that name, or raise UsageError with the known names."""
        if isinstance(name, str) and name not in self.consumers and name in self.queues:
            own = [each.name for each in self.consumers.values() if each.queue.name == name]
            consumers = own[0] if len(own) == 1 else f"{own[0]} to {own[-1]}"
            noun = "consumer" if len(own) == 1 else "consumers"
            msg = f"no consumer named '{name}'; queue '{name}' has the {noun} {consumers}"
            raise UsageError(msg)
        return _lookup("consumer", name, self.consumers)

    def queue(self, name: str) -> Queue:
        """Return the queue of that name, or raise UsageError with the known names."""
        return _lookup("queue", name, self.queues)

    def exchange(self, name: str) -> Exchange:
        """Return the exchange of that name, or raise UsageError with the known names."""
        if isinstance(name, str) and name not in self.exchanges and name in self.queues:
            exchange = self.queues[name].exchange
            remedy = f"publish to its exchange '{exchange}'" if exchange else "it has no exchange"
            msg = f"no exchange named '{name}'; '{name}' is a queue: {remedy}"
            raise UsageError(msg)
        return _lookup("exchange", name, self.exchanges)

    def selects_shards(self, exchange: str) -> bool:
        """Whether an exchange is of type x-consistent-hash, and so selects shards.

        The outbox can have rows for an exchange that the topology no longer has. For an unknown
        exchange, the result is True, so that the sender of the rows keeps the order of each key.
        """
        return exchange not in self.exchanges or self.exchanges[exchange].hashed

    def schedule(self, name: str) -> Schedule:
        """Return the schedule of that name, or raise UsageError with the known names."""
        return _lookup("schedule", name, self.schedules)

    def on_ring(self, queue: Queue) -> bool:
        """Whether the exchange of a queue has a ring: it is of type x-consistent-hash.

        The result is False for an external queue.
        """
        return not queue.external_name and self.exchanges[queue.exchange].hashed

    def generation(self, exchange: str) -> Generation:
        """Return the ring that topology.toml declares for an x-consistent-hash exchange.

        The shards are in the order of their numbers, so that additional shards at the end move the
        fewest keys. The number of the generation is 0; a switch sets another number.

        Args:
            exchange: the name of the exchange in topology.toml.
        """
        members = [
            (consumer.name, consumer.weight)
            for consumer in self.consumers.values()
            if consumer.queue.exchange == exchange
        ]
        queues = [queue for queue in self.queues.values() if queue.exchange == exchange]
        shape = shape_of(self.exchanges[exchange], queues)
        return Generation(exchange, tuple(members), shape=shape)


def _lookup(kind: str, name: str, known: Mapping[str, Named]) -> Named:
    """Return the object of that name.

    Args:
        kind: the kind of object, such as "queue".
        name: the name.
        known: maps the names of the topology's objects of this kind to the objects.

    Raises:
        TypeError: the name is not a text.
        UsageError: there is no such object; the error has the known names.

    """
    if not isinstance(name, str):
        refuse(kind, "str", name)
    if name in known:
        return known[name]
    expected = expected_one_of(name, known) if known else "the topology has none"
    msg = f"no {kind} named '{name}'; {expected}"
    raise UsageError(msg)
