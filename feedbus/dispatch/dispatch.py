"""Handle deliveries: decode, validate, call the handler in a transaction, publish, count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

from feedbus import broker
from feedbus.broker.names import Names
from feedbus.bus.sender import Sender
from feedbus.dispatch.calling import Calling
from feedbus.dispatch.dead_handler import DeadHandler
from feedbus.dispatch.decoder import AsyncCall, Call, Callee, Decoded, Decoder, HandlerInput
from feedbus.dispatch.failure_policy import FailurePolicy
from feedbus.dispatch.order import Order
from feedbus.dispatch.ordered_retries import OrderedRetries, Waits
from feedbus.dispatch.twins import Twins
from feedbus.errors import BrokerOutage, Drop, Outage, Reject, Retry, StoreOutage
from feedbus.handling.exception_rules import ExceptionRules
from feedbus.handling.handlers import Handler, refuse_in_transaction
from feedbus.handling.middleware import MiddlewareStack, resolve_middleware
from feedbus.handling.parameters import Given
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.records import Records
from feedbus.store import NoStore, Store
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery
from feedbus.wire.constants import KEY, PACK, REASON
from feedbus.wire.failures import bare

events = EventLog(__name__)

Failures = dict[int, BaseException]


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

        On a queue with `store = false` the store is not used.

        Raises:
            UsageError: a handler asks for what is not there.

        """
        self._consumer = consumer
        self._sender = sender
        self._metrics = metrics
        queue, root = consumer.queue, topology.root
        store = store if queue.store else NoStore()
        self._store = store
        self.clock = broker.clock(topology)
        self._names = Names(topology)
        rules = ExceptionRules.of(queue.retry.retry_on, queue.retry.reject_on, root)
        order = Order.of(queue)
        self._failure_policy = FailurePolicy(
            self._names, consumer, rules, self.clock, in_order=order.kept
        )
        self.retries = (
            OrderedRetries(
                order,
                self._failure_policy,
                self.clock,
                block_on_dead=queue.block_on_dead,
            )
            if order.kept
            else None
        )
        self._decoder = Decoder(
            topology,
            consumer,
            handlers,
            self._failure_policy,
            lambda handler: _callers(topology, consumer, handler, store, resources),
            self.retries,
        )
        self._calling = Calling(consumer, sender, store, self._overtaken)
        self._dead_handler = (
            DeadHandler(topology, consumer, sender, store=store, resources=resources)
            if queue.dead_handler is not None
            else None
        )
        self._twins = (
            Twins(queue.name, store.inbox, metrics, self.clock.unique) if queue.once else None
        )

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle deliveries; when this returns, all of them may be acknowledged.

        Whatever has to outlive them (what the handler published, retries, dead letters) is
        confirmed by the broker by then.

        Raises:
            Outage: the store or the broker is away; handle the same deliveries again later.

        """
        started = self.clock.monotonic()
        opened, inputs = self.open(deliveries)
        count = 0
        for each in inputs:
            records = Records(each.chunks, each.owners)
            count += len(records)
            self._log_drops(self._perform(each.callee, records))
        self._send_fates(opened)
        self._metrics.handled(self.clock.monotonic() - started, count)
        self._count(opened)

    @property
    def has_dead_handler(self) -> bool:
        """Whether the queue has a dead handler."""
        return self._dead_handler is not None

    @property
    def has_store(self) -> bool:
        """Whether handlers are called in transactions of a store."""
        return not isinstance(self._store, NoStore)

    @property
    def calling(self) -> Calling:
        """The object that calls the handlers, in any thread."""
        return self._calling

    def key(self, arrived: Decoded, row: int) -> Any:
        """Return a record's ordering key, or None if it has no order."""
        return self._decoder.key(arrived, row)

    def ended(
        self, arrived: Decoded, row: int, error: BaseException | None, seconds: float
    ) -> None:
        """Record that one record was handled, with its exception if there is one.

        Args:
            arrived: its delivery.
            row: its place there.
            error: as calling.judge() returns it.
            seconds: the duration of the call.

        """
        self._metrics.handled(seconds, 1)
        if error is not None:
            self.failed(arrived, row, error)

    def failed(self, arrived: Decoded, row: int, error: BaseException) -> None:
        """Record the exception of one record, as calling.judge() returns it."""
        self._log_drops({row: error})
        self._decoder.fail(arrived, row, error)

    def waits(self, arrived: Decoded, row: int) -> bool:
        """Whether a record is not to be handled, since one of its key before it has just failed."""
        if self.retries is None or not self.retries.unsettled:
            return False
        return self.must_wait(arrived, row)

    def must_wait(self, arrived: Decoded, row: int) -> bool:
        """Whether a record's key has to wait, since a record of it has failed."""
        if self.retries is None:
            return False
        return self.retries.must_wait(arrived.delivery, arrived.pack, row)

    def abandon(self, arrived: Decoded) -> None:
        """Note that a delivery of which some records have failed is to be handled again."""
        if self.retries is not None and arrived.fates:
            self.retries.abandoned = True

    def defer(self, arrived: Decoded, row: int) -> None:
        """Let a record wait for others of its key."""
        self._decoder.fail(arrived, row, Waits())

    def close(self, opened: Sequence[Decoded], note: Callable[[str], None] | None = None) -> None:
        """Put failures aside, and count; when this returns, the deliveries may be acknowledged.

        Args:
            opened: the deliveries.
            note: called with the message id before the dead handler gets what failed of it.

        Raises:
            Outage: the broker is away, or what the dead handler needs; it may be repeated.

        """
        self._send_fates(opened, note=note)
        self._count(opened)

    def open(
        self, deliveries: Sequence[Delivery], running: Collection[str] = ()
    ) -> tuple[list[Decoded], list[HandlerInput]]:
        """Decode deliveries; return them and the records for the handlers.

        Args:
            deliveries: in the order of their arrival.
            running: ids of messages that are being handled.

        Raises:
            StoreOutage: on a queue that says once, the store is away.

        """
        if self._twins is not None:
            try:
                deliveries = self._twins.distinguished(deliveries, running)
            except Exception as error:
                if isinstance(error, Outage) or not self._store.is_outage(error):
                    raise
                msg = f"store: {error}"
                raise StoreOutage(msg) from error
        return self._decoder.open(deliveries)

    def give_up(self, delivery: Delivery, reason: str, *, quietly: bool = False) -> None:
        """Dead-letter a delivery without decoding it; it may then be acknowledged.

        Args:
            delivery: the message that crashes its consumer.
            reason: of the dead letter.
            quietly: whether not to call the dead handler, since that costs the consumer too.

        """
        opened = self._decoder.set_aside(delivery, self._failure_policy.lost(delivery, reason))
        self._send_fates([opened], quietly=quietly)
        self._count([opened])

    def _perform(self, callee: Callee, records: Records) -> Failures:
        """Call the handler with records and return the exceptions by record."""
        failures: Failures = {}

        def fail(index: int, error: BaseException) -> None:
            failures[index] = error
            self._decoder.fail(*_origin(records, index), error)

        many = callee.handler.batch and len(records) > 1 and not self._any_waits(records)
        if many and self._calling.attempt(callee, records) is None:
            for index, verdict in records.verdicts.items():
                fail(index, verdict)
            return failures
        # One at a time, also after a batch that raised: a bad record never fails its neighbours.
        for index, single in enumerate(records.batches_of_one()):
            if self._waits(records, index):
                fail(index, Waits())
                continue
            error = self._calling.attempt(callee, single)
            error = error or single.verdicts.get(0)
            if error is not None:
                fail(index, error)
        return failures

    def _waits(self, records: Records, index: int) -> bool:
        return self.waits(*_origin(records, index))

    def _any_waits(self, records: Records) -> bool:
        if self.retries is None or not self.retries.unsettled:
            return False
        return any(self._waits(records, index) for index in range(len(records)))

    def _overtaken(self, records: Records) -> bool:
        """Whether a handler took a record although it wants an earlier one of its key again."""
        verdicts = records.batch.verdicts
        stopping = Retry | Reject if self._consumer.queue.block_on_dead else Retry
        if self.retries is None or not any(
            isinstance(each, stopping) for each in verdicts.values()
        ):
            return False
        stopped: set[Any] = set()
        for place in range(len(records.batch)):
            opened, row = _origin(records, place)
            key, verdict = self._decoder.key(opened, row), verdicts.get(place)
            if verdict is None and key in stopped:
                return True
            if verdict is not None:
                fate = self._failure_policy.decide(opened.delivery, opened.pack, row, verdict)
                if self.retries.stops(fate):
                    stopped.add(key)
        return False

    def _send_fates(
        self,
        opened: Sequence[Decoded],
        *,
        quietly: bool = False,
        note: Callable[[str], None] | None = None,
    ) -> None:
        if self._dead_handler is not None and not quietly:
            for arrived in opened:
                if note is not None and arrived.fates:
                    note(arrived.delivery.message_id)
                arrived.fates = [
                    self._dead_handler.before(arrived.delivery, fate) for fate in arrived.fates
                ]
        fates = [fate for arrived in opened for fate in arrived.fates]
        messages = [fate.message for fate in fates if fate.message is not None]
        messages += [fate.block for fate in fates if fate.block is not None]
        if not messages:
            return
        refusals = self._sender.send(messages)
        if any(refusal.final for refusal in refusals):
            # Without what it came with, which the broker refuses for good.
            bared = [bare(each.message, each.reason) for each in refusals if each.final]
            refusals = [each for each in refusals if not each.final] + self._sender.send(bared)
        if refusals:
            # Where failures go has to exist: until it does again nothing may be settled.
            reason = refusals[0].reason
            msg = f"{self._consumer.name}: cannot publish retries and dead letters: {reason}"
            raise BrokerOutage(msg)
        self._log_dead_letters(opened)

    def _count(self, opened: Sequence[Decoded]) -> None:
        now = self.clock.wall_nanoseconds() // 1000
        deliveries = records = 0  # that are acknowledged
        for arrived in opened:
            acknowledged, first = len(arrived.pack), "ack"
            if arrived.fates:
                failed = Counter(fate.verdict for fate in arrived.fates if fate.verdict != "wait")
                waiting = sum(fate.verdict == "wait" for fate in arrived.fates)
                acknowledged = max(acknowledged - failed.total() - waiting, 0)
                if waiting and not acknowledged and not failed:
                    continue  # it is counted when it is handled
                first = "ack" if acknowledged else next(iter(failed))
                for verdict, count in failed.items():
                    self._metrics.settled(verdict, int(verdict == first), count)
            deliveries += first == "ack"
            records += acknowledged
            self._count_time(arrived.delivery, now)
            if not arrived.delivery.identified and arrived.delivery.content_type != PACK:
                self._metrics.unidentified()
            if arrived.delivery.redelivered:
                self._metrics.redelivered(1)
        self._metrics.settled("ack", deliveries, records)

    def _count_time(self, delivery: Delivery, now_microseconds: int) -> None:
        lag = delivery.lag_seconds(now_microseconds)
        if lag is not None:
            self._metrics.lag(lag)
        if delivery.sent_again:
            age = delivery.age_seconds(now_microseconds)
            if age is not None:
                self._metrics.age(age)

    def _log_dead_letters(self, opened: Sequence[Decoded]) -> None:
        """Log one line for each delivery of which something became a dead letter."""
        for arrived in opened:
            letters = [fate.message for fate in arrived.fates if fate.is_dead_letter]
            if letters and letters[0] is not None:
                headers = letters[0].headers
                events.warning(
                    "dead_letter",
                    "a message became a dead letter; `feedbus dead show` prints it",
                    consumer=self._consumer.name,
                    message_id=letters[0].message_id,
                    key=headers[KEY],
                    reason=headers[REASON],
                    records=len(letters),
                )

    def _log_drops(self, failures: Failures) -> None:
        reasons = [error.reason for error in failures.values() if isinstance(error, Drop)]
        if reasons:
            events.info(
                "records_dropped",
                f"the handler raised Drop for {len(reasons)} records; they are acknowledged",
                consumer=self._consumer.name,
                records=len(reasons),
                first_reason=reasons[0],
            )


def _origin(records: Records, index: int) -> tuple[Decoded, int]:
    """Return the delivery that brought a record of a whole batch, and the record's place there."""
    number, row = records.batch.find(index)
    opened = records.batch.origins[number]
    assert isinstance(opened, Decoded)  # noqa: S101 -- for the type checker
    return opened, records.batch.chunks[number].rows[row]


def _callers(
    topology: Topology, consumer: Consumer, handler: Handler, store: Store, resources: Resources
) -> tuple[Call, AsyncCall | None]:
    """Return a function that calls a handler within the middleware; a coroutine if it is async."""
    middleware = [
        resolve_middleware(name, topology.root, asynchronous=handler.is_async)
        for name in topology.middleware
    ]
    stack = MiddlewareStack(middleware, consumer, resources)
    session_type = store.session_type
    if not isinstance(store, NoStore):
        refuse_in_transaction(handler.function)
    if not handler.is_async:
        return stack.around(handler.caller(session_type, resources)), None
    awaited = stack.around_async(handler.async_caller(session_type, resources))
    timeout_seconds = consumer.queue.handler_timeout_seconds

    async def finished(argument: Any, given: Given) -> None:
        await awaited(argument, given)
        if not handler.batch:
            given.bus.flush()  # before any other task of the loop goes on

    def call(argument: Any, given: Given) -> None:
        resources.run(finished(argument, given), timeout_seconds)

    return call, finished
