"""Handle deliveries: decode them, call the handler, publish its messages, count the records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus.sender import Sender
from feedbus.dispatch.batch_calls import BatchCalls
from feedbus.dispatch.blocked_keys import BlockedKeys
from feedbus.dispatch.dead_handler import DeadHandler
from feedbus.dispatch.decoded_deliveries import DecodedDelivery, Inputs, InvalidRecord
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.failed_record_sender import FailedRecordSender
from feedbus.dispatch.failure_policy import FailurePolicy
from feedbus.dispatch.handler_calls import HandlerCalls
from feedbus.dispatch.order_decisions import OrderDecisions
from feedbus.dispatch.overtaken_in_batch import OvertakenRecords
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.repeated_deliveries import RepeatedDeliveries
from feedbus.dispatch.settled_counts import SettledCounts
from feedbus.dispatch.skipped_records import SkippedRecords
from feedbus.dispatch.waiting_deliveries import WaitingDeliveries
from feedbus.dispatch.wrapped_handlers import wrap_handlers
from feedbus.errors import Drop, Outage, StoreOutage
from feedbus.handling.exception_rules import ExceptionRules
from feedbus.handling.resources import Resources
from feedbus.handling.routes import HandlerRoutes
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.records import Records
from feedbus.store import NoStore, Store
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.topology import Consumer, Topology
from feedbus.units import counted
from feedbus.wire import Delivery
from feedbus.wire.constants import PACK

events = EventLog(__name__)


class Dispatch:
    """Handles the deliveries of one consumer with the handlers of its queue.

    The runner has three modes. In the batch mode, the runner calls handle(), which does the whole
    work. In the group mode, the class SingleCalls calls the handlers. In the concurrent mode, the
    class ConcurrentCalls does. Both classes use decode(), end_record() and finish().

    A consumer's process has one Dispatch object.

    Attributes:
        clock: the clock of the broker.
        waiting_deliveries: the deliveries of the waiting queues. A failed record and the later
            records of its key wait there. The value is None if the queue has no `order_by`.
        blocked_keys: is asked before each call of a handler. It knows whether a record must wait.
        calls: calls the handlers.
        has_dead_handler: whether the queue sets `dead_handler`, a function of the project that gets
            each new dead letter.

    """

    def __init__(  # noqa: PLR0913 -- the parts that it uses, most of them given by name
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
        """Create the parts of the dispatch.

        Args:
            topology: the topology of the system.
            consumer: the consumer whose deliveries are handled.
            handlers: the routes, which select the handler of each message.
            sender: sends the messages of the handlers, the retries and the dead letters.
            metrics: counts the records.
            store: handlers are called in transactions of this store, except on a queue with
                `store = false`.
            resources: the resources that the handlers request.

        Raises:
            UsageError: a handler has a parameter for which feedbus has no value.

        """
        self._consumer = consumer
        self._metrics = metrics
        queue, root = consumer.queue, topology.root
        store = store if queue.store else NoStore()
        self._store = store
        self.clock = broker.clock(topology)
        rules = ExceptionRules.of(queue.retry.retry_on, queue.retry.reject_on, root)
        order = Order.of(queue)
        self._failure_policy = FailurePolicy(
            Names(topology), consumer, rules, self.clock, in_order=order.is_ordered
        )
        self.waiting_deliveries: WaitingDeliveries | None = None
        order_decisions: OrderDecisions | None = None
        if order.is_ordered:
            self.waiting_deliveries = WaitingDeliveries(order, self.clock)
            order_decisions = OrderDecisions(
                order,
                self._failure_policy,
                self.waiting_deliveries,
                block_on_dead=queue.block_on_dead,
            )
        self._decoder = Decoder(
            topology,
            consumer,
            handlers,
            wrap_handlers(topology, consumer, handlers, store, resources),
            self._failure_policy,
            order_decisions,
            self._is_handled,
        )
        self.blocked_keys = BlockedKeys(self._decoder, order_decisions)
        overtaken_records = OvertakenRecords(
            order, self._failure_policy, block_on_dead=queue.block_on_dead
        )
        # Leftover rows are committed rows of the outbox whose messages were not sent: the process
        # was killed after the commit, or an outage followed. These messages are sent before later
        # messages.
        leftovers = LeftoverRows(store, topology.name, self.clock) if queue.once else None
        self._skipped_records = SkippedRecords(queue.name, metrics, self.clock)
        self.calls = HandlerCalls(consumer, sender, store, leftovers, overtaken_records.find)
        self.calls.after_once = self._skipped_records.add
        self._batch_calls = BatchCalls(
            self.calls, self._decoder, self.blocked_keys, overtaken_records
        )
        dead_handler = (
            DeadHandler(topology, consumer, sender, store, leftovers, resources=resources)
            if queue.dead_handler is not None
            else None
        )
        self.has_dead_handler = dead_handler is not None
        self._failed_record_sender = FailedRecordSender(consumer.name, sender, dead_handler)
        self._settled_counts = SettledCounts(metrics, self.clock)
        self._paused_seconds = 0.0
        # Other programs can publish a message without an id. Then feedbus derives an id from the
        # content of the message. So two messages with the same content get the same id. On a queue
        # with `once = true`, the second message would be skipped, as if it were a redelivery of the
        # first one. This object gives the second message another id if this message is certainly
        # new: the broker does not mark it as redelivered.
        self._repeated_deliveries = (
            RepeatedDeliveries(
                queue.name, self.calls.inbox, metrics, self.clock.unique, in_order=order.is_ordered
            )
            if queue.once
            else None
        )

    def handle(self, deliveries: Sequence[Delivery]) -> None:
        """Handle deliveries; after this call, all of them may be acknowledged.

        When this method returns, the broker has confirmed all messages that result from the
        deliveries: messages of the handler, retries and dead letters.

        The runner calls this in the batch mode.

        Args:
            deliveries: the deliveries of a batch, in the order of their arrival.

        Raises:
            Outage: the store or the broker is unavailable. The caller must handle the same
                deliveries again later.

        """
        started, paused_seconds = self.clock.monotonic(), self._paused_seconds
        decoded_deliveries, inputs = self.decode(deliveries)
        count = 0
        for each in inputs:
            if isinstance(each, InvalidRecord):  # no handler gets this record
                # The record becomes a dead letter, or waits for an earlier record of its key.
                self.blocked_keys.decide(each)
                continue
            records = Records(each.chunks, each.deliveries)
            count += len(records)
            self._log_drops(self._batch_calls.call(each.wrapped, records).values())
        self._failed_record_sender.send(decoded_deliveries)
        took_seconds = self.clock.monotonic() - started
        self._metrics.handled(took_seconds - (self._paused_seconds - paused_seconds), count)
        self._count(decoded_deliveries)

    def pause_after_slices(self, pause: Callable[[], None]) -> None:
        """Call a function after each slice of the messages that a handler publishes.

        On a queue with `stream = true`, messages are sent in slices while the handler runs. After
        each slice, `pause` calls handle() with other deliveries. The time of these calls is not
        counted as time of the handler that has published the slice.

        The runner calls this once, at its start, if the queue has `stream = true` and `order_by`.

        Args:
            pause: the function, without arguments.

        """

        def timed_pause() -> None:
            started, earlier_seconds = self.clock.monotonic(), self._paused_seconds
            pause()
            # Pauses can be nested: during pause(), another handler can pause, and its inner pause
            # is added to `_paused_seconds`. The duration of the outer pause, measured here, already
            # includes the inner pause. So it is added to `earlier_seconds`, not to the present
            # value.
            self._paused_seconds = earlier_seconds + self.clock.monotonic() - started

        self.calls.after_slice = timed_pause

    @property
    def has_store(self) -> bool:
        """Whether handlers are called in transactions of a store.

        If this is true, the runner uses the batch mode or, with a `concurrency` above 1, the
        concurrent mode.
        """
        return not isinstance(self._store, NoStore)

    def end_record(
        self, decoded: DecodedDelivery, row: int, error: BaseException | None, seconds: float
    ) -> None:
        """Count one record after its call; if the call failed, call fail_record().

        SingleCalls and ConcurrentCalls call this after each call of a handler.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.
            error: the exception of a failed call, as `self.calls.classify_error()` returned it;
                None if the call succeeded.
            seconds: the duration of the call in seconds.

        """
        self._metrics.handled(seconds, 1)
        if error is not None:
            self.fail_record(decoded, row, error)

    def fail_record(self, decoded: DecodedDelivery, row: int, error: BaseException) -> None:
        """Add the decision on a failed record to its delivery.

        The decision is the verdict on the record, and the retry or dead letter that is sent for it.
        A record has failed if its handler has raised an exception, or if the broker has refused the
        messages of the handler. After the exception Drop, the record is only acknowledged: no
        message is sent.

        SingleCalls and end_record() call this.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery.
            error: the exception of the call, as `self.calls.classify_error()` returned it.

        """
        self._log_drops([error])
        self._decoder.fail(decoded, row, error)

    def finish(
        self,
        decoded_deliveries: Sequence[DecodedDelivery],
        before_dead_handler: Callable[[str], None] | None = None,
    ) -> None:
        """Send the retries and dead letters of deliveries.

        After this call, the deliveries may be acknowledged.

        SingleCalls and ConcurrentCalls call this.

        Args:
            decoded_deliveries: deliveries whose records have all been handled.
            before_dead_handler: called with the id of a message, before the dead handler is
                called with its records. The runner's function writes the id into the file of the
                crash guard. So if the dead handler ends the process, the next process knows which
                message was the cause.

        Raises:
            Outage: the broker is unavailable, or the dead handler raises Outage. The caller may
                repeat the call.

        """
        self._failed_record_sender.send(decoded_deliveries, before_dead_handler=before_dead_handler)
        self._count(decoded_deliveries)

    def _count(self, decoded_deliveries: Sequence[DecodedDelivery]) -> None:
        """Update the metrics for deliveries that are about to be acknowledged."""
        self._settled_counts.add(decoded_deliveries)
        self._skipped_records.report()

    def decode(
        self, deliveries: Sequence[Delivery], running: Collection[str] = ()
    ) -> tuple[list[DecodedDelivery], Inputs]:
        """Decode deliveries; return them, and their records for the handlers, in order.

        The second value is a list. Each item is either the records for one handler, or an invalid
        record, which no handler gets.

        handle(), SingleCalls and ConcurrentCalls call this.

        Args:
            deliveries: the deliveries in the order of their arrival.
            running: the ids of messages that are being handled now. With `once = true`, a message
                that was published without an id must not get one of these ids: two new messages
                with the same content need different ids, or the second one would be skipped.

        Raises:
            StoreOutage: the queue has `once = true`, and the store is unavailable.

        """
        if self._repeated_deliveries is not None:
            with self._store_outages():
                deliveries = self._repeated_deliveries.with_distinct_ids(deliveries, running)
        return self._decoder.decode(deliveries)

    def give_up(self, delivery: Delivery, reason: str, *, skip_dead_handler: bool = False) -> None:
        """Make a delivery a dead letter without decoding its message.

        But on a queue with `once = true`, a message whose id is in the inbox does not become a dead
        letter: its effects are committed. It is skipped, as at any other redelivery.

        After this call, the delivery may be acknowledged. The runner calls this in place of
        handle().

        Args:
            delivery: the delivery of a message that has reached the `delivery_limit` of its queue.
                This limit counts how often the process ended, or lost its connection to the broker,
                while it handled the message.
            reason: the reason of the dead letter.
            skip_dead_handler: True if the dead handler must not be called, because the dead handler
                has also ended the process too often.

        Raises:
            Outage: the broker or the store is unavailable, or the dead handler raises Outage. The
                caller may repeat the call.

        """
        if self._is_handled(delivery):
            self.handle([delivery])
            return
        decision = self._failure_policy.dead_letter(delivery, reason)
        decoded = self._decoder.with_decision(delivery, decision)
        self._failed_record_sender.send([decoded], skip_dead_handler=skip_dead_handler)
        self._settled_counts.add([decoded])

    def _is_handled(self, delivery: Delivery) -> bool:
        """Whether the inbox contains the id of a message, so that no handler is called for it.

        The result is always False without `once`, and for two kinds of messages. The first are
        messages without an id: feedbus derives their ids from their content, so the id in the inbox
        can be that of another message with the same content. The second are packs: the ids of their
        records are in their body, which is not decoded here.
        """
        queue = self._consumer.queue
        if not queue.once or not delivery.identified or delivery.content_type == PACK:
            return False
        with self._store_outages():
            return bool(self.calls.inbox.seen([delivery.message_id]))

    @contextmanager
    def _store_outages(self) -> Iterator[None]:
        """Raise StoreOutage for an outage of the store in the block."""
        try:
            yield
        except Exception as error:
            if isinstance(error, Outage) or not self._store.is_outage(error):
                raise
            msg = f"store: {error}"
            raise StoreOutage(msg) from error

    def _log_drops(self, errors: Iterable[BaseException]) -> None:
        reasons = [error.reason for error in errors if isinstance(error, Drop)]
        if reasons:
            events.info(
                "records_dropped",
                f"{counted(len(reasons), 'record')} acknowledged, because the handler raised Drop",
                consumer=self._consumer.name,
                records=len(reasons),
                first_reason=reasons[0],
            )
