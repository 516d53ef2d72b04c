"""Deliveries and a handler make verdicts: open, validate, call in a transaction, publish, tell."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.bus.collecting import BatchBus, Collect, CollectingBus
from feedbus.bus.publisher import Refusal
from feedbus.bus.sender import Sender
from feedbus.codecs import Codecs
from feedbus.dispatch.dead_handler import DeadHandler
from feedbus.dispatch.publications import Publications
from feedbus.dispatch.twins import Twins
from feedbus.errors import (
    BrokerOutage,
    Drop,
    InvalidBody,
    Outage,
    Reject,
    Retry,
    StoreOutage,
    described,
)
from feedbus.exception_rules import ExceptionRules
from feedbus.fork_safety import end_fork
from feedbus.handler_routes import HandlerRoutes
from feedbus.handling import Handler
from feedbus.message import Message
from feedbus.message_types import Loaded
from feedbus.metrics import ConsumerMetrics
from feedbus.middleware import MiddlewareStack, resolve_middleware
from feedbus.parameters import Given
from feedbus.records import Records
from feedbus.records.batch import Chunk
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, decode
from feedbus.resources import Resources
from feedbus.retry import Fate, Ladder
from feedbus.store import Store
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import PACK, REASON
from feedbus.wire.failures import bare

log = logging.getLogger(__name__)

Failures = dict[int, BaseException]


@dataclass(slots=True)
class Opened:
    """A delivery whose body has been read: its records, and the fate of each that failed."""

    consumer: Consumer
    delivery: Delivery
    pack: Pack
    fates: list[Fate] = field(default_factory=list)

    def message(self, row: int) -> Message:
        """Return the message of one of its records."""
        packed = self.delivery.content_type == PACK
        return Message.of(
            self.delivery,
            routing_key=self.pack.key(row) if packed else self.delivery.original_key,
            message_id=self.pack.ids[row],
            queue=self.consumer.queue.name,
            consumer=self.consumer.name,
        )


@dataclass(frozen=True, slots=True)
class Callee:
    """One handler of the queue: what loads its records, and what calls it."""

    handler: Handler
    load: Callable[[Pack], Loaded]
    call: Callable[[Any, Given], None]


@dataclass(slots=True)
class Run:
    """Records that follow each other and are for the same handler, with what brought them."""

    callee: Callee
    chunks: list[Chunk] = field(default_factory=list)
    owners: list[Opened] = field(default_factory=list)


class Dispatch:
    """Runs one consumer's handlers over deliveries."""

    def __init__(  # noqa: PLR0913 -- a dispatch's parts
        self,
        topology: Topology,
        consumer: Consumer,
        handlers: HandlerRoutes,
        sender: Sender,
        *,
        metrics: ConsumerMetrics,
        store: Store,
        resources: Resources,
    ) -> None:
        """Publish by sender; count in metrics; handle in transactions of store.

        Raises:
            UsageError: a handler asks for what is not there.

        """
        self._pid = os.getpid()
        self._consumer = consumer
        self._routes = handlers
        self._sender = sender
        self._metrics = metrics
        self._store = store
        queue, root = consumer.queue, topology.root
        self._types = [each.message_type() for each in handlers.handlers]
        self._callees = [
            Callee(
                each, kind.load, _call_within_middleware(topology, consumer, each, store, resources)
            )
            for each, kind in zip(handlers.handlers, self._types, strict=True)
        ]
        self._codecs = Codecs.of(topology)
        self._json_alone = not topology.codecs and all(
            kind.reads == "object" for kind in self._types
        )
        self._names = Names(topology)
        rules = ExceptionRules.of(queue.retry.retry_on, queue.retry.reject_on, root)
        self._ladder = Ladder(self._names, consumer, rules)
        self._dead_handler = (
            DeadHandler(topology, consumer, sender, store=store, resources=resources)
            if queue.dead_handler is not None
            else None
        )
        self._twins = Twins(queue.name, store.inbox, metrics) if queue.once else None

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle deliveries; when this returns, all of them are to be acknowledged.

        Whatever has to outlive them (what the handler published, retries, dead letters) is
        confirmed by the broker by then.

        Raises:
            Outage: the store or the broker is away; handle the same deliveries again later.

        """
        started = time.perf_counter()
        if self._twins is not None:
            deliveries = self._told_apart(self._twins, deliveries)
        opened: list[Opened] = []
        runs: list[Run] = []
        for delivery in deliveries:
            arrived = self._open(delivery)
            opened.append(arrived)
            if self._routes.only:
                if len(arrived.pack):
                    self._take(runs, self._callees[0], arrived, arrived.pack)
            else:
                self._route(runs, arrived)
        count = 0
        for run in runs:
            records = Records(run.chunks, run.owners)
            count += len(records)
            failures = self._perform(run.callee, records)
            self._log_drops(failures)
            for index, error in failures.items():
                place, row = records.batch.find(index)
                self._fail(run.owners[place], run.chunks[place].rows[row], error)
        self._send_fates(opened)
        self._metrics.handled(time.perf_counter() - started, count)
        self._count(opened)

    def _take(
        self,
        runs: list[Run],
        callee: Callee,
        arrived: Opened,
        pack: Pack,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Load records for a handler, and put them behind those that came before.

        Args:
            runs: what has come before.
            callee: the handler that they are for.
            arrived: what brought them.
            pack: the records.
            rows: the place of each in what brought them, where these are not all of its records.

        """
        loaded = callee.load(pack)
        for row, errors in loaded.errors.items():
            self._fail(arrived, row if rows is None else rows[row], InvalidBody(errors))
        chunk = loaded.chunk
        if not len(chunk):
            return
        if rows is not None:
            chunk = replace(chunk, rows=[rows[row] for row in chunk.rows])
        if not runs or runs[-1].callee is not callee:
            runs.append(Run(callee))
        runs[-1].chunks.append(chunk)
        runs[-1].owners.append(arrived)

    def _route(self, runs: list[Run], arrived: Opened) -> None:
        """Take a delivery's records apart where one handler ends and another begins."""
        delivery, pack = arrived.delivery, arrived.pack
        keys = pack.keys if delivery.content_type == PACK else [delivery.original_key] * len(pack)
        rows = range(len(pack))
        for number, some in groupby(
            rows, lambda row: self._routes.place(keys[row], delivery.properties)
        ):
            own = list(some)
            if number is None:
                reason = self._routes.lacking(keys[own[0]], delivery.properties)
                for row in own:
                    self._fail(arrived, row, Reject(reason))
                continue
            self._take(runs, self._callees[number], arrived, pack.select(own), own)

    def _told_apart(self, twins: Twins, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        try:
            return twins.told_apart(deliveries)
        except Exception as error:
            if isinstance(error, Outage) or not self._store.is_outage(error):
                raise
            msg = f"store: {error}"
            raise StoreOutage(msg) from error

    def give_up(self, delivery: Delivery, reason: str, *, quietly: bool = False) -> None:
        """Dead-letter a delivery unread; it is to be acknowledged then.

        Args:
            delivery: that costs its consumer.
            reason: how.
            quietly: whether not to call the dead handler, since that costs the consumer too.

        """
        opened = self._set_aside(delivery, self._ladder.lost(delivery, reason))
        self._send_fates([opened], quietly=quietly)
        self._count([opened])

    def _open(self, delivery: Delivery) -> Opened:
        if delivery.faults:
            return self._set_aside(delivery, self._ladder.undecodable(delivery))
        try:
            if not self._json_alone:
                pack = self._read(delivery)
            else:
                pack = decode(
                    delivery.body,
                    delivery.content_type,
                    delivery.message_id,
                    delivery.routing_key,
                    delivery.properties.get("content_encoding"),
                )
        except InvalidBody as error:
            return self._set_aside(delivery, self._ladder.unreadable(delivery, error))
        return Opened(self._consumer, delivery, pack)

    def _read(self, delivery: Delivery) -> Pack:
        """Read a body that may be anything, as the handler that takes it asks."""
        place = self._routes.place(delivery.original_key, delivery.properties)
        return self._codecs.read(
            delivery.body,
            delivery.content_type,
            delivery.message_id,
            delivery.routing_key,
            content_encoding=delivery.properties.get("content_encoding"),
            headers=delivery.headers,
            reads=self._types[place].reads if place is not None else "bytes",
        )

    def _set_aside(self, delivery: Delivery, fate: Fate) -> Opened:
        """Dead-letter a delivery of which no record can be read."""
        reason = fate.message.headers[REASON] if fate.message is not None else ""
        log.warning("%s set aside %s: %s", self._consumer.name, delivery.message_id, reason)
        nothing = Pack(Ids(delivery.message_id, None), [], {}, {})
        return Opened(self._consumer, delivery, nothing, [fate])

    def _perform(self, callee: Callee, records: Records) -> Failures:
        """Give records to the handler and return what was raised for which of them."""
        many = callee.handler.batch and len(records) > 1
        if many and self._attempt(callee, records) is None:
            return dict(records.verdicts)
        # One at a time, also after a batch that raised: a bad record never fails its neighbours.
        failures: Failures = {}
        for index, single in enumerate(records.batches_of_one()):
            error = self._attempt(callee, single)
            error = error or single.verdicts.get(0)
            if error is not None:
                failures[index] = error
        return failures

    def _attempt(self, callee: Callee, records: Records) -> BaseException | None:
        """Call the handler and return what it raised, unless that is an outage's doing."""
        try:
            self._call(callee, records)
        except Outage:
            raise
        except (Drop, Reject, Retry) as verdict:
            return verdict
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # CancelledError and SystemExit, too, are the handler's
            if self._store.is_outage(error):
                msg = f"store: {error}"
                raise StoreOutage(msg) from error
            self._log_failure(records, error)
            return error
        return None

    def _call(self, callee: Callee, records: Records) -> None:
        """Call the handler in one transaction, then send what it published.

        On a queue that says once, records seen before are left out. On one that says stream, there
        is no transaction.
        """
        store, queue = self._store, self._consumer.queue
        with Publications(
            self._sender, store, once=queue.once, stream=queue.stream
        ) as publications:
            with nullcontext() if queue.stream else store.transaction() as session:
                given = records
                if queue.once:
                    given = records.only(store.inbox.unseen(queue.name, records.ids))
                if not len(given):
                    return
                try:
                    bus = self._bus(callee.handler, given, publications.collect)
                    argument = given if callee.handler.batch else given[0]
                    callee.call(argument, Given(bus, session, given))
                    bus.flush()
                finally:
                    if os.getpid() != self._pid:
                        end_fork()
            if given is not records:
                ids = records.ids
                for index, verdict in given.verdicts.items():
                    records.verdicts[ids.index(given.ids[index])] = verdict
            publications.send()

    def _bus(
        self, handler: Handler, records: Records, collect: Collect
    ) -> BatchBus | CollectingBus:
        if not handler.batch:
            return CollectingBus(records, collect)
        return BatchBus(records, collect, self._sender.encoder.shards)

    def _fail(self, opened: Opened, row: int, error: BaseException) -> None:
        opened.fates.append(self._ladder.decide(opened.delivery, opened.pack, row, error))

    def _send_fates(self, opened: Sequence[Opened], *, quietly: bool = False) -> None:
        if self._dead_handler is not None and not quietly:
            for arrived in opened:
                arrived.fates = [
                    self._dead_handler.before(arrived.delivery, fate) for fate in arrived.fates
                ]
        fates = [fate for arrived in opened for fate in arrived.fates]
        for odd in {fate.odd_delay_milliseconds for fate in fates} - {None}:
            if odd is not None:
                channel, queue = self._sender.channel(), self._consumer.queue
                broker.declare_delay(channel, self._names, queue, odd, expires=True)
        messages = [fate.message for fate in fates if fate.message is not None]
        if not messages:
            return
        refusals = self._sender.send(messages)
        if any(refusal.final for refusal in refusals):
            # One of them closed the channel, on which the others waited.
            refusals = [left for each in refusals for left in self._send_alone(each.message)]
        if refusals:
            # Where failures go has to exist: until it does again nothing may be settled.
            reason = refusals[0].reason
            msg = f"{self._consumer.name}: cannot put failures aside: {reason}"
            raise BrokerOutage(msg)

    def _send_alone(self, message: Outgoing) -> Sequence[Refusal]:
        """Send what became of one record, without what it came with if the broker wants it so."""
        refusals = self._sender.send([message])
        if any(refusal.final for refusal in refusals):
            return self._sender.send([bare(message, refusals[0].reason)])
        return refusals

    def _count(self, opened: Sequence[Opened]) -> None:
        now = time.time_ns() // 1000
        for arrived in opened:
            failed = Counter(fate.verdict for fate in arrived.fates)
            acknowledged = max(len(arrived.pack) - failed.total(), 0)
            first = "ack" if acknowledged or not failed else next(iter(failed))
            self._metrics.settled("ack", int(first == "ack"), acknowledged)
            for verdict, count in failed.items():
                self._metrics.settled(verdict, int(verdict == first), count)
            published_at = arrived.delivery.published_at_microseconds
            if published_at is not None:
                self._metrics.lag(max(now - published_at, 0) / 1e6)
            if not arrived.delivery.identified and arrived.delivery.content_type != PACK:
                self._metrics.unidentified()
            if arrived.delivery.redelivered:
                self._metrics.redelivered(1)

    def _log_drops(self, failures: Failures) -> None:
        reasons = [error.reason for error in failures.values() if isinstance(error, Drop)]
        if reasons:
            name = self._consumer.name
            log.info("%s dropped %d of a batch, first because %s", name, len(reasons), reasons[0])

    def _log_failure(self, records: Records, error: BaseException) -> None:
        alone = len(records) == 1
        log.error(
            "%s failed on %s: %s",
            self._consumer.name,
            records.ids[0] if alone else f"a batch of {len(records)}, taking each alone",
            described(error),
            exc_info=error if alone else None,
        )


def _call_within_middleware(
    topology: Topology, consumer: Consumer, handler: Handler, store: Store, resources: Resources
) -> Callable[[Any, Given], None]:
    """Return what calls a handler within the middleware; one that is async, in the event loop."""
    middleware = [
        resolve_middleware(name, topology.root, asynchronous=handler.is_async)
        for name in topology.middleware
    ]
    stack = MiddlewareStack(middleware, consumer, resources)
    session_type = store.session_type
    if not handler.is_async:
        return stack.around(handler.caller(session_type, resources))
    awaited = stack.around_async(handler.async_caller(session_type, resources))

    def call(argument: Any, given: Given) -> None:
        resources.run(awaited(argument, given))

    return call
