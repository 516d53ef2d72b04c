"""Concurrent calls of handlers that take one record: as tasks of an event loop, or in threads."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import count
from typing import cast

from feedbus.bus.sender import Sender
from feedbus.dispatch.concurrent_records import DeferredInvalidRecord, UnfinishedDelivery, Work
from feedbus.dispatch.decoded_deliveries import Decoded, InvalidRecord
from feedbus.dispatch.dispatch import Dispatch
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
    """The waiting and running records of one consumer; only the consumer's thread may use it."""

    def __init__(
        self, dispatch: Dispatch, consumer: Consumer, sender: Sender, resources: Resources
    ) -> None:
        """Create the object; `concurrency` records of the queue may run at the same time."""
        queue = consumer.queue
        self._dispatch = dispatch
        self._blocked = dispatch.blocked
        self._clock = dispatch.clock
        self._sender = sender
        self._resources = resources
        # The ids that feedbus has derived from the content of messages that wait or run. Another
        # message with the same content must get another id.
        self._unidentified: set[str] = set()
        self._sequencer: Sequencer[Work | DeferredInvalidRecord] = Sequencer(queue.concurrency)
        self._came: list[Delivery] = []  # not decoded yet
        self._unfinished: list[Work] = []  # records that finish() must finish
        self._done: list[Decoded] = []  # finished deliveries for send_failed()
        self._numbers = count()  # numbers the deliveries in the order of their arrival
        self._failed: list[UnfinishedDelivery] = []  # deliveries with failed or waiting records
        self._closed: list[Delivery] = []  # deliveries to acknowledge
        self._slow = SlowCalls(self._clock)
        self.outage: Outage | None = None
        self._calls = RunningCalls(dispatch.calls, queue, resources, self._clock)
        self._ended = self._calls.ended
        self.waker = self._calls.waker

    @property
    def running(self) -> set[Work]:
        """The records that were started and are not finished."""
        return cast("set[Work]", self._sequencer.running)  # take() ends invalid records

    @property
    def in_handlers(self) -> list[Work]:
        """The records whose calls are running or about to start."""
        return [work for work in self.running if not work.ended]

    @property
    def oldest_started_at(self) -> float | None:
        """The start time of the call that has run longest; None if no call runs."""
        return self._slow.oldest_started_at

    @property
    def slow(self) -> list[tuple[str, float]]:
        """The messages whose calls take long or have just taken long, and the durations."""
        return self._slow.durations(self.in_handlers)

    def forget_slow(self) -> None:
        """Remove the ended calls from the result of `slow`.

        A call that still runs is removed when it ends.
        """
        self._slow.forget(self.in_handlers)

    @property
    def given_to_dead_handler(self) -> list[Decoded]:
        """The finished deliveries whose records the dead handler must get."""
        return [each for each in self._done if self._dispatch.has_dead_handler and each.decisions]

    @property
    def hungry(self) -> bool:
        """Whether to decode the next deliveries, because too few records wait or run."""
        return self._sequencer.hungry

    @property
    def unfinished(self) -> bool:
        """Whether a call has ended, so that finish() must be called next."""
        return bool(self._ended or self._unfinished or self._done or self._closed)

    def open(self, deliveries: Sequence[Delivery]) -> None:
        """Decode deliveries that arrived after all others, and add their records.

        Raises:
            StoreOutage: the store is unavailable; these deliveries are opened together with the
                next ones.

        """
        self._came += deliveries
        if not self._came:
            return
        opened, inputs = self._dispatch.decode(self._came, self._unidentified)
        self._came = []
        unfinished = {id(each): UnfinishedDelivery(each, next(self._numbers)) for each in opened}
        self._unidentified.update(
            each.delivery.message_id for each in opened if not each.delivery.identified
        )
        for each in inputs:
            if isinstance(each, InvalidRecord):
                delivery = unfinished[id(each.arrived)]
                delivery.left += 1
                key = self._blocked.key(each.arrived, each.row)
                self._sequencer.add(DeferredInvalidRecord(key, delivery, each))
                continue
            for chunk, owner in zip(each.chunks, each.arrived, strict=True):
                delivery = unfinished[id(owner)]
                delivery.left += len(chunk)
                for index, row in enumerate(chunk.rows):
                    key = self._blocked.key(owner, row)
                    records: Records = Records([chunk.select([index])], [owner])
                    self._sequencer.add(Work(key, delivery, row, each.wrapped, records))
        for delivery in unfinished.values():
            if delivery.opened.decisions:  # some of its records wait already
                delivery.failed_keys.update(self._keys(delivery.opened))
                self._failed.append(delivery)
        empty = [delivery for delivery in unfinished.values() if not delivery.left]
        self._unidentified.difference_update(each.opened.delivery.message_id for each in empty)
        self._done += [delivery.opened for delivery in empty if not delivery.failed_keys]
        self._release()

    def _keys(self, opened: Decoded) -> set[Hashable]:
        """Return the keys of all records of a delivery."""
        return {self._blocked.key(opened, row) for row in range(len(opened.pack))}

    def take(self) -> list[Work]:
        """Return the records that may start now; the caller then calls start().

        While a resource must be opened again, no record starts: first the running calls must end.
        """
        if not self._resources.ready:
            return []
        taken: list[Work] = []
        for each in self._sequencer.take():
            if isinstance(each, DeferredInvalidRecord):
                self._blocked.decide(each.record)
                self._end_record(each, each.record.row)
            else:
                taken.append(each)
        return taken

    def start(self, works: Sequence[Work]) -> None:
        """Start the calls of records."""
        self._slow.start(works, self._clock.monotonic())
        self._calls.start(works)

    def check_event_loop(self) -> None:
        """Log an async handler that blocks the event loop; call this method often."""
        if any(work.wrapped.call_async is not None for work in self.running):
            self._resources.loop.check()

    def finish(self) -> None:
        """Publish the messages of calls that have ended; the caller then calls send_failed().

        If a call ended with an outage, its record runs again, and self.outage is set to the outage.

        Raises:
            Outage: the broker or store is unavailable; the next call continues.

        """
        self.waker.sleep()
        while self._ended:
            self._unfinished.append(self._ended.popleft())
        self.outage = self._classify_errors()
        published = [work for work in self._unfinished if work.publications is not None]
        calls = [work.publications for work in published if work.publications is not None]
        for work, error in zip(published, send_together(self._sender, calls), strict=True):
            if error is not None:
                work.error = self._dispatch.calls.classify_error(work.records, error)
        for work in self._unfinished:
            self._end(work)
        self._unfinished = []

    def send_failed(self, only: Decoded | None = None) -> None:
        """Send retries and dead letters of finished deliveries, by default of all of them.

        Raises:
            Outage: the broker is unavailable, or the dead handler raised Outage; the call may be
                repeated.

        """
        closing = self._done if only is None else [only]
        self._dispatch.finish(closing)
        self._done = [] if only is None else [each for each in self._done if each is not only]
        self._closed += [each.delivery for each in closing]

    def take_done(self) -> list[Delivery]:
        """Return the deliveries that must be acknowledged; each is returned once."""
        deliveries, self._closed = self._closed, []
        return deliveries

    def _classify_errors(self) -> Outage | None:
        """Log failed calls; mark the records of calls with an outage to run again."""
        found: Outage | None = None
        left: list[Work] = []
        for work in self._unfinished:
            if work.error is not None and not work.classified:
                try:
                    work.error = self._dispatch.calls.classify_error(work.records, work.error)
                    work.classified = True
                except Outage as error:
                    found = error
                    work.error, work.started_at, work.ended = None, 0.0, False
                    self._sequencer.again(work)
                    continue
            left.append(work)
        self._unfinished = left
        return found

    def _end(self, work: Work) -> None:
        if work.publications is not None:
            work.publications.discard()
        opened, row = work.delivery.opened, work.row
        self._dispatch.record_ended(opened, row, work.error, work.seconds)
        self._slow.end(work)
        if work.error is None:
            self._leave(work.delivery)
            self._sequencer.end(work)
        else:
            self._end_record(work, row)

    def _end_record(self, ended: Work | DeferredInvalidRecord, row: int) -> None:
        """Let the next record of the key run; if this record failed, let the later ones wait."""
        self._note_failed(ended)
        self._leave(ended.delivery)
        if not self._blocked.must_wait(ended.delivery.opened, row):
            self._sequencer.end(ended)
            return
        for behind in self._sequencer.cut(ended):
            if isinstance(behind, DeferredInvalidRecord):
                self._blocked.decide(behind.record)
            else:
                self._blocked.defer(behind.delivery.opened, behind.row)
            self._note_failed(behind)
            self._leave(behind.delivery)

    def _note_failed(self, ended: Work | DeferredInvalidRecord) -> None:
        """Register the key of a record that has failed, or that waits for a failed record."""
        delivery = ended.delivery
        if delivery not in self._failed:
            self._failed.append(delivery)
            self._failed.sort(key=lambda each: each.number)
        delivery.failed_keys.add(ended.key)

    def _leave(self, delivery: UnfinishedDelivery) -> None:
        """Count a record of a delivery as finished."""
        delivery.left -= 1
        if delivery.left:
            return
        self._unidentified.discard(delivery.opened.delivery.message_id)
        if delivery.failed_keys:
            self._release()
        else:
            self._done.append(delivery.opened)

    def _release(self) -> None:
        """Give finished deliveries with failed records to send_failed(), in the order of each key.

        A record that waits is sent after the failed record of its key. If it were sent first, and
        the process then ended, it would overtake the failed record.
        """
        earlier: set[Hashable] = set()
        held: list[UnfinishedDelivery] = []
        for delivery in self._failed:
            if delivery.left or not earlier.isdisjoint(delivery.failed_keys):
                held.append(delivery)
                earlier |= delivery.failed_keys - {None}
            else:
                self._done.append(delivery.opened)
        self._failed = held

    def forget(self) -> None:
        """Forget all records that do not run: the broker delivers them again."""
        self._came, self._done, self._closed, self._failed = [], [], [], []
        self._sequencer.forget_waiting()
        while self._ended:
            self._unfinished.append(self._ended.popleft())
        for work in self._unfinished:
            if work.publications is not None:
                work.publications.discard()
            self._sequencer.end(work)
        self._unfinished = []
        self._unidentified = {
            work.delivery.opened.delivery.message_id
            for work in self.running
            if not work.delivery.opened.delivery.identified
        }

    def close(self) -> None:
        """End the threads when no call runs."""
        self._calls.close()
