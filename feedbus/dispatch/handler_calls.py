"""Call handlers in transactions, and collect the messages that they publish."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from feedbus.bus.batch_bus import MAX_AT_ONCE, BatchBus
from feedbus.bus.collecting_bus import Collect, CollectingBus
from feedbus.bus.sender import Sender
from feedbus.dispatch.lost_store_connections import LostStoreConnections
from feedbus.dispatch.publications import STREAM_RECORDS, Publications
from feedbus.dispatch.queue_inbox import QueueInbox
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits, FailedRecordsOvertaken
from feedbus.dispatch.wrapped_handlers import AsyncCall, WrappedHandler
from feedbus.errors import Drop, Outage, Reject, Retry, StoreOutage, described
from feedbus.handling.handlers import Handler
from feedbus.handling.parameters import Given
from feedbus.logs import EventLog
from feedbus.process.fork_safety import end_fork
from feedbus.records import Records
from feedbus.store import Store
from feedbus.store.leftover_rows import LeftoverRows
from feedbus.topology import Consumer

events = EventLog(__name__)


class HandlerCalls:
    """Calls the handlers of one consumer, in the thread that calls the method.

    The dispatch of a consumer has one HandlerCalls object. With `concurrency` above 1, several
    threads use it.

    Attributes:
        inbox: the ids of the messages that the queue has handled; used with `once = true`.
        after_slice: called after each slice of messages, on a queue with `stream = true`.
        after_once: called after each committed call on a queue with `once = true`. It gets all
            records of the call, and the new records: the records that were not handled before.

    """

    def __init__(
        self,
        consumer: Consumer,
        sender: Sender,
        store: Store,
        leftovers: LeftoverRows | None,
        find_overtaken: Callable[[Records], Sequence[tuple[Any, int]]],
    ) -> None:
        """Create the object.

        Args:
            consumer: the consumer whose deliveries are handled.
            sender: sends the messages that a handler publishes.
            store: the store for the transactions.
            leftovers: the leftover rows of the outbox, which are sent before the messages of a
                call; None if the queue does not set `once`.
            find_overtaken: OvertakenRecords.find(). With `order_by`, a batch handler must not
                handle a record if an earlier record of the same key fails in the same batch. The
                function gets the records after the call, with their verdicts, and returns these
                failed records. If it returns any, the effects of the call are discarded.

        """
        self._find_overtaken = find_overtaken
        self._pid = os.getpid()
        self._consumer = consumer
        self._queue_of_ids = sender.queue_of_ids(consumer.queue.name)
        self._sender = sender
        self._store = store
        self.inbox = QueueInbox(store.inbox, consumer.queue.name)
        self._leftovers = leftovers
        self._lost_connections = LostStoreConnections(store)
        self.after_slice: Callable[[], None] = lambda: None
        self.after_once: Callable[[Records, Records], None] = lambda _records, _new_records: None

    def query_outbox_again(self) -> None:
        """Request a query for leftover rows of other processes, before the next messages are sent.

        A leftover row is a committed row of the outbox whose message was not sent. The runner calls
        this when it has subscribed to a queue, and when the first message of the queue arrives:
        until then, another process may have read the queue.
        """
        if self._leftovers is not None:
            self._leftovers.query_again()

    def call(
        self, wrapped: WrappedHandler, records: Records
    ) -> tuple[Publications, None] | tuple[None, BaseException]:
        """Call a handler in one transaction, and return its messages or the exception of the call.

        Args:
            wrapped: the handler, with the middleware.
            records: the records of a batch; for a handler of one record, a batch of one.

        Returns:
            If the call succeeded, the messages that the handler published, and None. The caller
            sends the messages. If the call failed, None, and the exception.

        Raises:
            Outage: the store, or something else that the handler needs, is unavailable. No attempt
                is counted.

        """
        try:
            return self.collect(wrapped, records), None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 -- a handler may raise SystemExit
            return None, self.classify_error(records, error)

    def classify_error(self, records: Records, error: BaseException) -> BaseException:
        """Return the exception that decides what happens with the records of a failed call.

        The result is usually `error`. If the handler itself has ended the connection to the store,
        the result is a ConnectionClosed. The result is logged, unless it is Drop, Reject, Retry or
        EarlierRecordWaits.

        Each module that calls handlers passes the exception of a failed call to this method.

        Args:
            records: the records of the call.
            error: an exception of the handler; or a PublishError, if the broker has refused a
                message of the call; or FailedRecordsOvertaken, if the handler has handled a record
                although an earlier record of its key failed.

        Raises:
            Outage: an outage is the cause. No attempt is counted.

        """
        if isinstance(error, Drop | Reject | Retry | EarlierRecordWaits):
            return error
        if isinstance(error, Outage) or self._store.is_outage(error):
            handler_failure = self._lost_connections.handler_failure(records, error)
            if handler_failure is not None:
                error = handler_failure
            elif isinstance(error, Outage):
                raise error
            else:
                msg = f"store: {error}"
                raise StoreOutage(msg) from error
        if len(records) == 1:
            events.error(
                "handler_failed",
                "the handler raised an exception for a record; the queue's retry policy applies",
                consumer=self._consumer.name,
                message_id=records.ids[0],
                error=described(error),
                exc_info=error,
            )
        else:
            events.error(
                "batch_failed",
                "the handler raised an exception for a batch; feedbus now calls it for each record"
                " alone",
                consumer=self._consumer.name,
                records=len(records),
                error=described(error),
            )
        return error

    def collect(self, wrapped: WrappedHandler, records: Records) -> Publications:
        """Call a handler in one transaction; return the messages that the caller must send.

        With `once = true`, records that were handled before are left out. With `stream = true`,
        there is no transaction, and slices of messages are sent while the handler runs.

        Args:
            wrapped: the handler, with the middleware.
            records: the records of a batch; for a handler of one record, a batch of one.

        Raises:
            FailedRecordsOvertaken: later records of a batch have overtaken a failed record.
            BaseException: an exception of the handler or the store. If the connection to the store
                was lost during the commit, the transaction may have been committed. In all other
                cases, nothing was committed.

        """
        queue = self._consumer.queue
        publications = self._publications()
        with publications.call(in_transaction=not queue.stream) as session:
            new_records = records
            if queue.once:
                new_records = records.only(self.inbox.add_new(records.ids))
            if len(new_records) < len(records):
                # The other records were handled before. The process that handled them may have
                # ended before it sent its messages. Then it has left rows in the outbox, which
                # must be sent before the messages of this call.
                self.query_outbox_again()
            if len(new_records):
                self._call_handler(wrapped, new_records, publications, session)
            failed_ids = _failed_ids(new_records) if queue.once else []
            if failed_ids:
                # These records can be handled again, at their retry or as requeued dead letters.
                # So their ids must not stay in the inbox.
                self.inbox.remove(failed_ids)
        if new_records is not records:  # the caller reads the verdicts in `records`
            self.after_once(records, new_records)
            ids = records.ids
            for index, verdict in new_records.verdicts.items():
                given_index = ids.index(new_records.ids[index])
                records.verdicts[given_index] = verdict
                if index in new_records.batch.published:
                    records.batch.published.add(given_index)
        return publications

    def _call_handler(
        self, wrapped: WrappedHandler, records: Records, publications: Publications, session: Any
    ) -> None:
        """Call a handler, and collect the messages that it publishes.

        Args:
            wrapped: the handler, with the middleware.
            records: the records. With `once = true`, none of them was handled before.
            publications: gets the messages.
            session: the session of the store for the handler; None if there is none.

        Raises:
            FailedRecordsOvertaken: later records of a batch have overtaken a failed record.

        """
        try:
            bus = self._bus(wrapped.handler, records, publications.collect)
            argument = records if wrapped.handler.batch else records[0]
            wrapped.call(argument, Given(bus, session, records))
            bus.flush()
            if isinstance(bus, BatchBus) and records.verdicts:
                records.batch.published = bus.causes(records.verdicts)
            if wrapped.handler.batch and (overtaken := self._find_overtaken(records)):
                raise FailedRecordsOvertaken(overtaken)
        finally:
            if os.getpid() != self._pid:  # the handler has forked, and this is the new process
                end_fork()

    async def collect_async(self, call: AsyncCall, records: Records) -> Publications:
        """Await an async handler of one record; return the messages that must be sent afterwards.

        There is no transaction. The handler runs in the thread of the event loop.

        The concurrent mode calls this.

        Args:
            call: the handler as a coroutine function, with the middleware.
            records: the record, as a batch of one.

        """
        publications = self._publications()
        try:
            with publications.call(in_transaction=False):
                bus = CollectingBus(
                    records,
                    publications.collect,
                    self._sender.encoder.shard_count,
                    queue=self._queue_of_ids,
                )
                await call(records[0], Given(bus, None, records))
        finally:
            if os.getpid() != self._pid:  # the handler has forked, and this is the new process
                end_fork()
        return publications

    def _publications(self) -> Publications:
        queue = self._consumer.queue
        # With `concurrency` above 1, handlers run in other threads. Only the consumer's thread may
        # send. So no slices are sent while a handler runs.
        stream = queue.stream and queue.concurrency == 1
        return Publications(
            self._sender, self._store, self._leftovers, stream=stream, after_slice=self.after_slice
        )

    def _bus(
        self, handler: Handler, records: Records, collect: Collect
    ) -> BatchBus | CollectingBus:
        queue, shards = self._consumer.queue, self._sender.encoder.shard_count
        if not handler.batch:
            return CollectingBus(records, collect, shards, queue=self._queue_of_ids)
        at_once = STREAM_RECORDS if queue.stream else MAX_AT_ONCE
        return BatchBus(records, collect, shards, at_once, queue=self._queue_of_ids)


def _failed_ids(records: Records) -> list[str]:
    """Return the ids of the records whose verdict is Reject or Retry."""
    ids = records.ids
    return [
        ids[index] for index, verdict in records.verdicts.items() if not isinstance(verdict, Drop)
    ]
