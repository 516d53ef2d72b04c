"""Concurrent calls of handlers that take one record: as tasks of an event loop, or in threads.

The runner calls these methods:

1. decode() adds the records of deliveries.
2. take_startable() returns the records that may run now. With `order_by`, these are records whose
   earlier records of the same key have ended. start() starts their calls.
3. finish() publishes the messages of calls that have ended.
4. When all records of a delivery have ended, send_failed() sends its retries and dead letters. Then
   take_acknowledgeable() returns the delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import cast

from feedbus.bus.sender import Sender
from feedbus.dispatch.concurrent_records import (
    DeferredInvalidRecord,
    RecordCall,
    UnfinishedDelivery,
)
from feedbus.dispatch.decoded_deliveries import DecodedDelivery, InvalidRecord
from feedbus.dispatch.dispatch import Dispatch
from feedbus.dispatch.failed_deliveries import FailedDeliveries
from feedbus.dispatch.publications import send_together
from feedbus.dispatch.running_calls import RunningCalls
from feedbus.dispatch.sequencer import Sequencer
from feedbus.dispatch.slow_calls import SlowCalls
from feedbus.errors import Outage
from feedbus.handling.resources import Resources
from feedbus.records import Records
from feedbus.topology import Consumer
from feedbus.wire import Delivery


class ConcurrentCalls:
    """The unfinished records of one consumer in the concurrent mode.

    Only the consumer's thread may use the object. It exists as long as the consumer's process.

    Attributes:
        outage: an outage with which a call has ended, as set by the latest finish(); None if there
            was none.
        waker: wakes the consumer's thread when a call has ended.

    """

    def __init__(
        self, dispatch: Dispatch, consumer: Consumer, sender: Sender, resources: Resources
    ) -> None:
        """Create the object without records.

        Args:
            dispatch: decodes the deliveries, and decides on failed records.
            consumer: the consumer; its queue's `concurrency` is the number of records that may run
                at the same time.
            sender: sends the messages that handlers publish.
            resources: the resources of the handlers, and the event loop.

        """
        queue = consumer.queue
        self._dispatch = dispatch
        self._blocked_keys = dispatch.blocked_keys
        self._clock = dispatch.clock
        self._sender = sender
        self._resources = resources
        # Other programs can publish a message without an id. Then feedbus derives an id from the
        # content of the message. This set has the derived ids of the unfinished messages: on a
        # queue with `once = true`, a new message with the same content must get another id.
        self._derived_ids: set[str] = set()
        self._sequencer: Sequencer[RecordCall | DeferredInvalidRecord] = Sequencer(
            queue.concurrency
        )
        self._undecoded: list[Delivery] = []
        # Records whose calls have ended, and whose messages finish() has not published yet.
        self._ended_calls: list[RecordCall] = []
        self._finished: list[DecodedDelivery] = []  # finished deliveries for send_failed()
        self._numbers = count()  # numbers the deliveries in the order of their arrival
        self._failed_deliveries = FailedDeliveries()
        self._to_acknowledge: list[Delivery] = []
        self._slow_calls = SlowCalls(self._clock)
        self.outage: Outage | None = None
        self._calls = RunningCalls(dispatch.calls, queue, resources, self._clock)
        # Ended calls that the other threads have reported; finish() moves them to _ended_calls.
        self._reported_calls = self._calls.ended_calls
        self.waker = self._calls.waker

    @property
    def running(self) -> set[RecordCall]:
        """The records whose calls were started, and were not finished by finish()."""
        # An invalid record never runs: take_startable() ends it.
        return cast("set[RecordCall]", self._sequencer.running)

    @property
    def in_handlers(self) -> list[RecordCall]:
        """The records whose handler calls are running or about to start."""
        return [call for call in self.running if not call.has_ended]

    @property
    def oldest_started_at(self) -> float | None:
        """When the oldest running call started; None if no call runs.

        The value is a time of the monotonic clock in seconds.
        """
        return self._slow_calls.oldest_started_at

    @property
    def slow_messages(self) -> list[tuple[str, float]]:
        """(message id, seconds) of each slow call that runs or has just ended.

        A slow call takes so long that the broker may close the channel. When the broker has closed
        it, these messages are the possible causes.
        """
        return self._slow_calls.durations(self.running)

    def forget_slow_messages(self) -> None:
        """Remove all calls from `slow_messages`.

        The runner calls this when the broker has closed the channel or cancelled the consumer, and
        the runner has counted a crash against slow messages. So no call is counted twice.
        """
        self._slow_calls.forget(self.running)

    @property
    def for_dead_handler(self) -> list[DecodedDelivery]:
        """The finished deliveries for which send_failed() may call the dead handler.

        The runner writes their message ids into the crash guard's file first, because the dead
        handler, a function of the project, can end the process.
        """
        return [
            each for each in self._finished if self._dispatch.has_dead_handler and each.decisions
        ]

    @property
    def has_capacity(self) -> bool:
        """Whether fewer records are running or ready to run than `concurrency` allows.

        If this is true, the runner decodes the next deliveries.
        """
        return self._sequencer.has_capacity

    @property
    def has_ended_calls(self) -> bool:
        """Whether there are ended calls or finished deliveries.

        If this is true, the runner calls finish(), send_failed() and take_acknowledgeable().
        """
        return bool(
            self._reported_calls or self._ended_calls or self._finished or self._to_acknowledge
        )

    def decode(self, deliveries: Sequence[Delivery]) -> None:
        """Decode deliveries that arrived after all earlier ones, and add their records.

        Args:
            deliveries: the deliveries in the order of their arrival.

        Raises:
            StoreOutage: the store is unavailable. The next call of this method also decodes these
                deliveries.

        """
        self._undecoded += deliveries
        if not self._undecoded:
            return
        decoded_deliveries, inputs = self._dispatch.decode(self._undecoded, self._derived_ids)
        self._undecoded = []
        unfinished = {
            id(each): UnfinishedDelivery(each, next(self._numbers)) for each in decoded_deliveries
        }
        self._derived_ids.update(
            each.delivery.message_id for each in decoded_deliveries if not each.delivery.identified
        )
        for each in inputs:
            if isinstance(each, InvalidRecord):
                delivery = unfinished[id(each.decoded)]
                delivery.unfinished_records += 1
                key = self._blocked_keys.key(each.decoded, each.row)
                self._sequencer.add(DeferredInvalidRecord(key, delivery, each))
                continue
            for chunk, owner in zip(each.chunks, each.deliveries, strict=True):
                delivery = unfinished[id(owner)]
                delivery.unfinished_records += len(chunk)
                for index, row in enumerate(chunk.rows):
                    key = self._blocked_keys.key(owner, row)
                    records: Records = Records([chunk.select([index])], [owner])
                    self._sequencer.add(RecordCall(key, delivery, row, each.wrapped, records))
        for delivery in unfinished.values():
            if delivery.decoded.decisions:
                # Some of its records are invalid or must wait. The decisions do not contain the
                # keys of these records. So all keys of the delivery are registered.
                self._failed_deliveries.add(delivery, self._blocked_keys.keys(delivery.decoded))
        empty = [delivery for delivery in unfinished.values() if not delivery.unfinished_records]
        self._derived_ids.difference_update(each.decoded.delivery.message_id for each in empty)
        self._finished += [delivery.decoded for delivery in empty if not delivery.is_failed]
        self._finished += self._failed_deliveries.take_finished()

    def take_startable(self) -> list[RecordCall]:
        """Return the records whose handler calls may start now; the caller then calls start().

        Invalid records, which no handler gets, are not returned: this method decides on them.

        If a resource has ended by itself, it must be opened again. The runner does so when no call
        runs. Until then, this method returns no records.
        """
        if not self._resources.ready:
            return []
        startable: list[RecordCall] = []
        for each in self._sequencer.take():
            if isinstance(each, DeferredInvalidRecord):
                self._blocked_keys.decide(each.record)
                self._end_record(each, each.record.row)
            else:
                startable.append(each)
        return startable

    def start(self, calls: Sequence[RecordCall]) -> None:
        """Start the handler calls of records, in threads or as tasks of the event loop.

        Args:
            calls: the records that take_startable() has returned.

        """
        self._slow_calls.start(calls, self._clock.monotonic())
        self._calls.start(calls)

    def check_event_loop(self) -> None:
        """Log a warning if an async handler blocks the event loop; called often."""
        if any(call.wrapped.call_async is not None for call in self.running):
            self._resources.loop.check()

    def finish(self) -> None:
        """Publish the messages of calls that have ended; the runner then calls send_failed().

        If a call ended with an outage, its record runs again, and self.outage is set to the outage.
        Otherwise self.outage is set to None.

        Raises:
            Outage: the broker or store is unavailable; the next call continues.

        """
        self.waker.reset()
        while self._reported_calls:
            self._ended_calls.append(self._reported_calls.popleft())
        self.outage = self._classify_errors()
        published = [call for call in self._ended_calls if call.publications is not None]
        publications = [call.publications for call in published if call.publications is not None]
        for call, error in zip(published, send_together(self._sender, publications), strict=True):
            if error is not None:
                call.error = self._dispatch.calls.classify_error(call.records, error)
        for call in self._ended_calls:
            self._end_call(call)
        self._ended_calls = []

    def send_failed(self, only: DecodedDelivery | None = None) -> None:
        """Send the retries and dead letters of deliveries whose records have all ended.

        The runner calls this after finish().

        Args:
            only: one delivery of for_dead_handler, whose messages are sent; None to send the
                messages of all finished deliveries.

        Raises:
            Outage: the broker is unavailable, or the dead handler raised Outage; the call may be
                repeated.

        """
        finished = self._finished if only is None else [only]
        self._dispatch.finish(finished)
        self._finished = (
            [] if only is None else [each for each in self._finished if each is not only]
        )
        self._to_acknowledge += [each.delivery for each in finished]

    def take_acknowledgeable(self) -> list[Delivery]:
        """Return the deliveries that the runner must acknowledge; each is returned once."""
        deliveries, self._to_acknowledge = self._to_acknowledge, []
        return deliveries

    def _classify_errors(self) -> Outage | None:
        """Log failed calls; return the latest outage, or None.

        If a call ended with an outage, its record will run again.
        """
        outage: Outage | None = None
        classified: list[RecordCall] = []
        for call in self._ended_calls:
            if call.error is not None and not call.is_classified:
                try:
                    call.error = self._dispatch.calls.classify_error(call.records, call.error)
                    call.is_classified = True
                except Outage as error:
                    outage = error
                    call.error, call.started_at, call.has_ended = None, 0.0, False
                    self._sequencer.repeat(call)
                    continue
            classified.append(call)
        self._ended_calls = classified
        return outage

    def _end_call(self, call: RecordCall) -> None:
        """End a record whose messages were published, or whose call has failed."""
        if call.publications is not None:
            call.publications.discard()
        decoded, row = call.delivery.decoded, call.row
        self._dispatch.end_record(decoded, row, call.error, call.seconds)
        self._slow_calls.end(call)
        if call.error is None:
            self._count_finished(call.delivery)
            self._sequencer.end(call)
        else:
            self._end_record(call, row)

    def _end_record(self, ended: RecordCall | DeferredInvalidRecord, row: int) -> None:
        """End a record that failed or is invalid.

        If its key is blocked now, the later records of the key wait. Otherwise the next record of
        the key may run.
        """
        self._failed_deliveries.add(ended.delivery, [ended.key])
        self._count_finished(ended.delivery)
        if not self._blocked_keys.must_wait(ended.delivery.decoded, row):
            self._sequencer.end(ended)
            return
        for later in self._sequencer.remove_key(ended):
            if isinstance(later, DeferredInvalidRecord):
                self._blocked_keys.decide(later.record)
            else:
                self._blocked_keys.defer(later.delivery.decoded, later.row)
            self._failed_deliveries.add(later.delivery, [later.key])
            self._count_finished(later.delivery)

    def _count_finished(self, delivery: UnfinishedDelivery) -> None:
        """Count a record of a delivery as finished; after its last record, finish the delivery."""
        delivery.unfinished_records -= 1
        if delivery.unfinished_records:
            return
        self._derived_ids.discard(delivery.decoded.delivery.message_id)
        if delivery.is_failed:
            self._finished += self._failed_deliveries.take_finished()
        else:
            self._finished.append(delivery.decoded)

    def forget(self) -> None:
        """Forget all records that do not run, when the connection ends.

        The broker delivers their messages again. Records that still run stay until their calls end.
        """
        self._undecoded, self._to_acknowledge, self._finished = [], [], []
        self._failed_deliveries.forget()
        self._sequencer.forget_waiting()
        while self._reported_calls:
            self._ended_calls.append(self._reported_calls.popleft())
        for call in self._ended_calls:
            if call.publications is not None:
                call.publications.discard()
            self._sequencer.end(call)
        self._ended_calls = []
        self._derived_ids = {
            call.delivery.decoded.delivery.message_id
            for call in self.running
            if not call.delivery.decoded.delivery.identified
        }

    def close(self) -> None:
        """Wait until no call runs, and end the threads in which handlers are called.

        The runner calls this at the end of the run.
        """
        self._calls.close()
