"""The topology as immutable dataclasses: exchanges, queues, shards, consumers and processes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NoReturn

from feedbus.errors import UsageError
from feedbus.name_list import expected_one_of
from feedbus.urls import BrokerUrl, ManagementUrl, StoreUrl

ExchangeType = Literal["direct", "topic", "fanout", "x-consistent-hash"]

PEEWEE, SQLALCHEMY = "peewee", "sqlalchemy"  # feedbus's own adapters
SESSIONS = {PEEWEE: "peewee:Database", SQLALCHEMY: "sqlalchemy.orm:Session"}
# This is longer than retries usually take, and than a dead letter usually waits.
KEEP_HANDLED_SECONDS = 30 * 24 * 3600.0
HANDLER_TIMEOUT_SECONDS = 600.0
PREFETCH = 10
WAITING_LIMIT = 10_000
MOST_BUCKETS = 10_000  # the largest number of buckets of a ring
OPERATIONS = "operations"  # the name of the process that serves metrics, health and the page
# A port that others rarely use: exporters of Prometheus use 9100 to 9999, RabbitMQ uses 5672 and
# 15672 to 15692, and Linux uses the ports from 32768 on for outgoing connections.
OPERATIONS_PORT = 8672
# A quorum queue counts a delivery whenever a channel ends, even for a message that was only
# prefetched. RabbitMQ 4 drops such a message after 20 deliveries by default. With a limit of -1,
# RabbitMQ 3.10 drops it immediately.
NO_DELIVERY_LIMIT = 2**31 - 1

# The properties with which a queue is declared. They cannot be changed on an existing queue.
DECLARED = (
    "type",
    "single_active_consumer",
    "message_ttl_seconds",
    "max_length",
    "overflow",
    "arguments",
)


def _empty() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange.

    Attributes:
        name: the name in topology.toml.
        type: the type of the exchange; it determines which queues get a message.
        pack: the largest number of records in one message; 0 for no packs.
        arguments: the arguments with which feedbus declares the exchange.
        content_type: the content type of the messages that feedbus publishes to it; None for JSON.
        external_name: the whole name on the broker, if another system declares it; otherwise "".

    """

    name: str
    type: ExchangeType
    pack: int = 0
    arguments: Mapping[str, Any] = field(default_factory=_empty)
    content_type: str | None = None
    external_name: str = ""

    @property
    def hashed(self) -> bool:
        """Whether the exchange is of type x-consistent-hash, and so has a ring."""
        return self.type == "x-consistent-hash"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The delays between the attempts to handle a record, and what happens after the last one.

    Attributes:
        delays_seconds: the delays.
        then: what happens after the last attempt; "repeat" tries again after the last delay.
        retry_on: dotted names of the exceptions after which a record is retried; () for all.
        reject_on: dotted names of the exceptions after which a record is a dead letter.

    """

    delays_seconds: tuple[float, ...] = (1.0, 10.0, 60.0, 600.0)
    then: Literal["dead-letter", "drop", "repeat"] = "dead-letter"
    retry_on: tuple[str, ...] = ()
    reject_on: tuple[str, ...] = ()

    @property
    def delays_milliseconds(self) -> tuple[int, ...]:
        """The different delays in milliseconds; each has a retry queue."""
        return tuple(dict.fromkeys(round(delay * 1000) for delay in self.delays_seconds))


@dataclass(frozen=True, slots=True)
class Batch:
    """How many records a handler gets in one call.

    Attributes:
        size: a batch is full with this number of records.
        wait_seconds: the shortest time between the starts of two batches, unless the second batch
            is full. A record waits at most this long for other records. It does not wait if the
            start of the last batch is longer ago.

    """

    size: int = 1
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The limits of a queue's dead letters by age and number; None means no limit."""

    max_age_seconds: float | None = None
    max_length: int | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A table [queues.NAME]: one queue, or several shards that share one declaration.

    Its handlers are in exactly one of handler, handlers and handlers_by_type. The reference of
    topology.toml describes every option. Options whose names need an explanation are:

    Attributes:
        handlers: handlers by the pattern of the routing key.
        handlers_by_type: handlers by the property `type` of the message.
        order_by: records with the same value of this field stay in order; True stands for the
            routing key, False for no order.
        waiting_limit: how many records of one consumer may wait for earlier records of their keys.
        block_on_dead: whether records wait for the dead letters of their keys, too.
        store: whether the handlers run in transactions of the store, if there is one.
        external_name: the whole name on the broker, if another system declares the queue; such a
            queue has no exchange.

    """

    name: str
    exchange: str
    handler: str = ""
    routing_keys: tuple[str, ...] = ()
    shards: int | None = None
    weights: tuple[int, ...] = (1,)
    batch: Batch = Batch()
    retry: RetryPolicy = RetryPolicy()
    dead_letters: DeadLetters = DeadLetters()
    dead_handler: str | None = None
    prefetch: int = PREFETCH
    concurrency: int = 1
    order_by: str | bool = False
    store: bool = True
    waiting_limit: int = WAITING_LIMIT
    block_on_dead: bool = False
    once: bool = False
    stream: bool = False
    type: Literal["classic", "quorum"] = "classic"
    single_active_consumer: bool = False
    delivery_limit: int = 5
    message_ttl_seconds: float | None = None
    max_length: int | None = None
    overflow: Literal["drop-head", "reject-publish"] | None = None
    arguments: Mapping[str, Any] = field(default_factory=_empty)
    handlers: Mapping[str, str] = field(default_factory=_empty)
    handlers_by_type: Mapping[str, str] = field(default_factory=_empty)
    idle_timeout_seconds: float | None = None
    max_runtime_seconds: float | None = None
    max_messages: int | None = None
    handler_timeout_seconds: float = HANDLER_TIMEOUT_SECONDS
    memory_limit_bytes: int | None = None
    processes: int = 1
    user: str | None = None
    start_retries: int = 10
    stop_timeout_seconds: float | None = None
    external_name: str = ""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """The store in which the handlers' effects commit.

    Attributes:
        adapter: "peewee", "sqlalchemy", or the dotted name of a function that creates the store of
            a topology.
        url: the URL of the store; the sqlalchemy adapter has none.
        engine: the dotted name of the project's SQLAlchemy engine.
        prepare: the dotted name of a function that is called with the topology before any process
            starts.
        keep_handled_seconds: how long rows of the inbox are kept.

    """

    adapter: str = PEEWEE
    url: StoreUrl | None = None
    engine: str | None = None
    prepare: str | None = None
    keep_handled_seconds: float = KEEP_HANDLED_SECONDS

    def __str__(self) -> str:
        """Return the name of the store without its password."""
        return str(self.url) if self.url is not None else self.engine or self.adapter


@dataclass(frozen=True, slots=True)
class Consumer:
    """The consumer of one queue on the broker: of a shard, or of a queue without shards."""

    name: str
    queue: Queue
    shard: int | None
    weight: int


@dataclass(frozen=True, slots=True)
class Process:
    """A supervised process that is not a consumer, such as a web server."""

    name: str
    command: tuple[str, ...]
    processes: int = 1
    user: str | None = None
    start_retries: int = 10
    stop_timeout_seconds: float | None = None
    memory_limit_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=_empty, repr=False)  # with secrets


@dataclass(frozen=True, slots=True)
class Operations:
    """The HTTP address of the operations process on each host.

    Attributes:
        host: the address; if other machines can reach it, a token is needed.
        port: the port. With None, it is OPERATIONS_PORT, or a free port if OPERATIONS_PORT is in
            use. With 0, it is any free port.

    """

    host: str = "127.0.0.1"
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Logging:
    """The format of the logs of feedbus's processes.

    Attributes:
        format: `text` or `json`.

    """

    format: str = "text"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A message that is published at the times of a cron expression.

    Attributes:
        name: the name in topology.toml.
        cron: the cron expression.
        exchange: the name of the exchange in topology.toml.
        key: the routing key.
        payload: the payload of the message.
        headers: the headers of the message.
        timezone: the IANA name of the expression's time zone.
        catch_up_seconds: how late a missed schedule may be fired.

    """

    name: str
    cron: str
    exchange: str
    key: str = ""
    payload: Mapping[str, Any] = field(default_factory=_empty)
    headers: Mapping[str, Any] = field(default_factory=_empty)
    timezone: str = "UTC"
    catch_up_seconds: float = 3600.0


@dataclass(frozen=True)
class Generation:
    """One ring of an x-consistent-hash exchange.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        members: the names of the consumers (the shards) and their weights, in the order in which
            they are bound.
        turn: the number of the generation; an earlier ring with the same members has another
            number.
        shape: a digest of the arguments of its queues; "" for the default arguments.

    """

    exchange: str
    members: tuple[tuple[str, int], ...]
    turn: int = 0
    shape: str = ""

    @cached_property
    def digest(self) -> str:
        """A digest of the members, the turn and the shape, as eight hexadecimal digits."""
        shape = [self.shape] if self.shape else []
        text = json.dumps([*self.members, self.turn, *shape], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Topology:
    """The checked content of topology.toml."""

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
    logging: Logging = Logging()

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
        """Every consumer by name, in the order of topology.toml; shards in the order of numbers."""
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
        """Every supervised process that is not a consumer; the operations process is the last."""
        if self.operations is None:
            return self.processes
        return {**self.processes, OPERATIONS: Process(OPERATIONS, ("feedbus", OPERATIONS))}

    def consumer(self, name: str) -> Consumer:
        """Return the consumer of that name, or raise UsageError with the known names."""
        return self.consumers.get(name) or _refuse("consumer", name, self.consumers)

    def queue(self, name: str) -> Queue:
        """Return the queue of that name, or raise UsageError with the known names."""
        return self.queues.get(name) or _refuse("queue", name, self.queues)

    def exchange(self, name: str) -> Exchange:
        """Return the exchange of that name, or raise UsageError with the known names."""
        return self.exchanges.get(name) or _refuse("exchange", name, self.exchanges)

    def schedule(self, name: str) -> Schedule:
        """Return the schedule of that name, or raise UsageError with the known names."""
        return self.schedules.get(name) or _refuse("schedule", name, self.schedules)

    def on_ring(self, queue: Queue) -> bool:
        """Whether the exchange of a queue has a ring."""
        return not queue.external_name and self.exchanges[queue.exchange].hashed

    def generation(self, exchange: str) -> Generation:
        """Return the ring that topology.toml declares for an x-consistent-hash exchange.

        Shards are bound in the order of their numbers, so that additional shards at the end move
        the fewest keys. The weights are written so that a restart of the broker keeps this order.
        """
        members = [
            (consumer.name, consumer.weight)
            for consumer in self.consumers.values()
            if consumer.queue.exchange == exchange
        ]
        return Generation(exchange, tuple(members), shape=self._shape(exchange))

    def _shape(self, exchange: str) -> str:
        found: list[Any] = [sorted(self.exchanges[exchange].arguments.items())]
        for queue in self.queues.values():
            if queue.exchange == exchange:
                usual = Queue(queue.name, "", "", single_active_consumer=queue.shards is not None)
                changed = {
                    name: value
                    for name in DECLARED
                    if (value := getattr(queue, name)) != getattr(usual, name)
                }
                if queue.type == "quorum":
                    changed["x-delivery-limit"] = NO_DELIVERY_LIMIT
                if changed:
                    found.append([queue.name, changed | {"arguments": dict(queue.arguments)}])
        if found == [[]]:
            return ""
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]


def _refuse(kind: str, name: str, known: Collection[str]) -> NoReturn:
    expected = expected_one_of(name, known) if known else "the topology has none"
    msg = f"no {kind} named '{name}'; {expected}"
    raise UsageError(msg)
