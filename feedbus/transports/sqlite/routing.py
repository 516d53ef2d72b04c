"""Routing: the exchanges, queues and bindings of a file, and the queues that receive a message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

from amqp.exceptions import NotFound

from feedbus.ring import Ring
from feedbus.topic_patterns import topic_matches, words_of
from feedbus.transports.sqlite.header_matching import HeaderMatcher
from feedbus.transports.sqlite.table_json import table_from_json

QUEUE, EXCHANGE = "queue", "exchange"
HEADERS = "headers"
REMEMBERED_ROUTES = 20_000  # how many results of route() are kept in memory
# How many of the low bits of a row id are the number of the message. In a queue with priorities,
# the higher bits are the rank of the message's priority.
NUMBER_BITS = 48

Destination = tuple[str, str]  # kind, name
# Maps a routing key to destinations; for a headers exchange, it maps the headers of a message.
Match = Callable[[Any], Iterable[Destination]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange with the properties of its declaration.

    Attributes:
        name: the name.
        type: the exchange type, such as "topic".
        durable: whether it was declared as durable. An exchange that is not durable survives a
            restart, too, because it is in the broker file.
        auto_delete: whether it is deleted with its last binding.
        arguments: the arguments, such as alternate-exchange.
    """

    name: str
    type: str
    durable: bool
    auto_delete: bool
    arguments: Mapping[str, Any]

    @property
    def alternate(self) -> str | None:
        """The name of the alternate exchange, which receives messages that match no binding.

        None if the exchange has none.
        """
        return self.arguments.get("alternate-exchange")


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with the properties of its declaration, and the values of its arguments.

    An argument that the queue does not have is None.

    Attributes:
        owner_id: the id of the connection that has declared an exclusive queue; otherwise None.
        may_have_ttl: whether a message in the queue may have a time to live (TTL). It is False if
            no message of the queue can expire.
        ttl_ms: x-message-ttl, in milliseconds.
        expires_ms: x-expires, in milliseconds: how long the queue is kept without a use.
        max_length: x-max-length, in messages.
        overflow: x-overflow: what happens in a full queue; "drop-head" if it is not declared.
        single_active: whether only the oldest consumer of the queue gets messages.
        quorum: whether it is declared as a quorum queue, which counts deliveries.
        at_least_once: whether a full queue cannot refuse the dead letters of this queue. On
            RabbitMQ, such a dead letter waits until the full queue has room.
    """

    id: int
    name: str
    durable: bool
    exclusive: bool
    auto_delete: bool
    arguments: Mapping[str, Any]
    owner_id: int | None
    may_have_ttl: bool
    ttl_ms: int | None
    expires_ms: int | None
    max_length: int | None
    max_priority: int | None
    overflow: str
    dead_letter_exchange: str | None
    dead_letter_key: str | None
    delivery_limit: int | None
    single_active: bool
    quorum: bool
    at_least_once: bool

    def row_id(self, number: int, priority: int) -> int:
        """Return the id for the row of a message; the queue delivers the lowest row id first.

        Messages of a higher priority have lower row ids. Messages of the same priority have the
        order of their numbers.

        Args:
            number: the number of the message; each new message of the file gets the next one.
            priority: the priority of the message, from 0 to 255. A priority above the queue's
                x-max-priority counts as x-max-priority.
        """
        if not self.max_priority:
            return number
        rank = self.max_priority - min(priority, self.max_priority)
        return rank << NUMBER_BITS | number


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding of a queue or exchange to an exchange.

    Attributes:
        id: the number of the binding; later bindings have higher ones.
        source: the exchange that routes messages.
        kind: the kind of the destination, "queue" or "exchange".
        destination: the name of the queue or exchange that receives messages.
        routing_key: the binding key; on a ring (an x-consistent-hash exchange), the weight.
        bucketed: whether the binding gives its destination buckets, the units of a ring. A second
            binding of the same destination gives none.
        arguments: the arguments of the binding, such as x-match.
    """

    id: int
    source: str
    kind: str
    destination: str
    routing_key: str
    bucketed: bool
    arguments: Mapping[str, Any]


class Routes:
    """A copy of all exchanges, queues and bindings of a broker, to find the queues of a message.

    The copy is immutable and has one version. When exchanges, queues or bindings change, a new
    Routes object replaces it.

    Args:
        version: counts the changes of exchanges, queues and bindings.
        exchanges: all exchanges.
        queues: all queues.
        bindings: all bindings, in the order in which they were declared.
    """

    def __init__(
        self,
        version: int,
        exchanges: Iterable[Exchange],
        queues: Iterable[Queue],
        bindings: Iterable[Binding],
    ) -> None:
        """Create the object from the rows of the routing tables.

        Args:
            version: the version of the routing tables.
            exchanges: the rows of the table `exchanges`.
            queues: the rows of the table `queues`.
            bindings: the rows of the table `bindings`.

        """
        self.version = version
        self.exchanges = {exchange.name: exchange for exchange in exchanges}
        self.queues = {queue.name: queue for queue in queues}
        self.queues_by_id = {queue.id: queue for queue in self.queues.values()}
        self.bindings: dict[str, list[Binding]] = defaultdict(list)
        for binding in bindings:
            self.bindings[binding.source].append(binding)
        self._matches: dict[str, Match] = {}
        self._known: dict[tuple[str, str], tuple[Queue, ...]] = {}

    def route(self, exchange: str, routing_key: str, properties: str) -> tuple[Queue, ...]:
        """Return the queues that receive a message; each is returned once.

        Args:
            exchange: the exchange to which it is published.
            routing_key: the routing key of the message.
            properties: the properties of the message, as JSON; an exchange of type headers reads
                them.

        Raises:
            NotFound: there is no such exchange.

        """
        cached = self._known.get((exchange, routing_key))
        if cached is not None:
            return cached
        if not exchange:
            return (self.queues[routing_key],) if routing_key in self.queues else ()
        queues, by_headers = self._walk(exchange, routing_key, properties)
        # If the headers matter, another message with this key may reach other queues, so the result
        # is not kept.
        if not by_headers:
            if len(self._known) >= REMEMBERED_ROUTES:
                self._known.clear()
            self._known[exchange, routing_key] = queues
        return queues

    def _walk(
        self, exchange: str, routing_key: str, properties: str
    ) -> tuple[tuple[Queue, ...], bool]:
        """Return the matching queues, and whether the message's headers influenced the result."""
        if exchange not in self.exchanges:
            msg = f"NOT_FOUND - no exchange '{exchange}' in vhost '/'"
            raise NotFound(msg, (60, 40))
        queues: dict[str, Queue] = {}
        visited = [exchange]
        headers: Mapping[str, Any] | None = None
        for name in visited:  # the loop appends the exchanges that it finds to this list
            if self.exchanges[name].type == HEADERS:
                if headers is None:
                    headers = table_from_json(properties).get("application_headers") or {}
                destinations = list(self._match(name)(headers))
            else:
                destinations = list(self._match(name)(routing_key))
            alternate = self.exchanges[name].alternate
            if not destinations and alternate:
                destinations = [(EXCHANGE, alternate)]
            for kind, target in destinations:
                if kind == QUEUE and target in self.queues:
                    queues[target] = self.queues[target]
                elif kind == EXCHANGE and target in self.exchanges and target not in visited:
                    visited.append(target)
        return tuple(queues.values()), headers is not None

    def _match(self, exchange: str) -> Match:
        match = self._matches.get(exchange)
        if match is None:
            build = MATCHES[self.exchanges[exchange].type]
            match = self._matches[exchange] = build(self.bindings.get(exchange, []))
        return match


def _match_direct(bindings: Sequence[Binding]) -> Match:
    table: dict[str, list[Destination]] = defaultdict(list)
    for binding in bindings:
        table[binding.routing_key].append((binding.kind, binding.destination))
    return lambda routing_key: table.get(routing_key, ())


def _match_fanout(bindings: Sequence[Binding]) -> Match:
    everyone = [(binding.kind, binding.destination) for binding in bindings]
    return lambda _: everyone


def _match_topic(bindings: Sequence[Binding]) -> Match:
    table = [
        (binding.routing_key.split("."), (binding.kind, binding.destination))
        for binding in bindings
    ]

    def match(routing_key: str) -> Iterable[Destination]:
        words = words_of(routing_key)
        return [to for pattern, to in table if topic_matches(pattern, words)]

    return match


def _match_headers(bindings: Sequence[Binding]) -> Match:
    table = [
        (HeaderMatcher(binding.arguments), (binding.kind, binding.destination))
        for binding in bindings
    ]
    return lambda headers: [to for matcher, to in table if matcher.matches(headers)]


def _match_ring(bindings: Sequence[Binding]) -> Match:
    ring = Ring()
    destinations: dict[str, Destination] = {}
    for binding in bindings:
        if binding.bucketed:
            member = f"{binding.kind} {binding.destination}"
            destinations[member] = (binding.kind, binding.destination)
            ring.bind(member, int(binding.routing_key))
    if not destinations:
        return lambda _: ()
    return lambda routing_key: (destinations[ring.route(routing_key)],)


MATCHES: Mapping[str, Callable[[Sequence[Binding]], Match]] = {
    "direct": _match_direct,
    "fanout": _match_fanout,
    HEADERS: _match_headers,
    "topic": _match_topic,
    "x-consistent-hash": _match_ring,
}
TYPES = frozenset(MATCHES)


def load_routes(database: Connection, version: int) -> Routes:
    """Return the exchanges, queues and bindings of a broker, read in the caller's transaction.

    It is called by the first transaction of a connection, and by the next transaction after
    exchanges, queues or bindings have changed.

    Args:
        database: the connection to the file, with an open transaction.
        version: the version of the tables in this transaction: a count of changes.
    """
    exchanges = [
        Exchange(name, kind, bool(durable), bool(auto_delete), table_from_json(arguments))
        for name, kind, durable, auto_delete, arguments in database.execute(
            "SELECT name, type, durable, auto_delete, arguments FROM exchanges"
        )
    ]
    queues = [
        make_queue(*row)
        for row in database.execute(
            "SELECT id, name, durable, exclusive, auto_delete, arguments, owner, expiring"
            " FROM queues"
        )
    ]
    bindings = [
        Binding(identity, source, kind, destination, key, bucketed, table_from_json(arguments))
        for identity, source, kind, destination, key, bucketed, arguments in database.execute(
            "SELECT id, source, kind, destination, routing_key, bucketed, arguments FROM bindings"
            " ORDER BY id"
        )
    ]
    return Routes(version, exchanges, queues, bindings)


def make_queue(
    queue_id: int,
    name: str,
    durable: int,
    exclusive: int,
    auto_delete: int,
    arguments_json: str,
    owner_id: int | None,
    may_have_ttl: int,
) -> Queue:
    """Return the queue of a row of the table `queues`; the arguments are the columns of the row.

    Unlike in RabbitMQ 4, quorum queues have no default delivery limit.

    Args:
        queue_id: the id of the queue.
        name: its name.
        durable: 1 if it is durable, or 0.
        exclusive: 1 if it is exclusive, or 0.
        auto_delete: 1 if it is deleted with its last consumer, or 0.
        arguments_json: its x-arguments, as JSON.
        owner_id: the id of the connection that has declared an exclusive queue; otherwise None.
        may_have_ttl: 1 if a message in the queue may have a time to live, or 0.
    """
    arguments = table_from_json(arguments_json)
    quorum = arguments.get("x-queue-type", "classic") == "quorum"
    overflow = arguments.get("x-overflow", "drop-head")
    return Queue(
        id=queue_id,
        name=name,
        durable=bool(durable),
        exclusive=bool(exclusive),
        auto_delete=bool(auto_delete),
        arguments=arguments,
        owner_id=owner_id,
        may_have_ttl=bool(may_have_ttl),
        ttl_ms=arguments.get("x-message-ttl"),
        expires_ms=arguments.get("x-expires"),
        max_length=arguments.get("x-max-length"),
        max_priority=arguments.get("x-max-priority"),
        overflow=overflow,
        dead_letter_exchange=arguments.get("x-dead-letter-exchange"),
        dead_letter_key=arguments.get("x-dead-letter-routing-key"),
        delivery_limit=arguments.get("x-delivery-limit"),
        single_active=bool(arguments.get("x-single-active-consumer")),
        quorum=quorum,
        # RabbitMQ ignores the strategy on other queues.
        at_least_once=quorum
        and overflow == "reject-publish"
        and arguments.get("x-dead-letter-strategy") == "at-least-once",
    )
