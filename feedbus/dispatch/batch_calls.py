"""Calls of handlers for the records of a batch.

If a batch handler raises an exception, it is called again for each record alone. After an outage,
it is not: then the same deliveries are handled again later.

A batch handler can set a verdict on each record. With `order_by`, it can ask for a retry of a
record although it has handled later records of the same key. Then the effects of the call are
discarded. The handler is called again without these later records, which wait. Such a second call
is frequent if the records come from a waiting queue, because many of them have the same key.
"""

from __future__ import annotations

from feedbus.dispatch.blocked_keys import BlockedKeys
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.handler_calls import HandlerCalls
from feedbus.dispatch.overtaken_records import OvertakenRecords, locate
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits, FailedRecordsOvertaken
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records import Records

Failures = dict[int, BaseException]

# If later records of its key have overtaken a failed record, the handler is called again without
# the later records. After this number of calls, the handler is called for each record alone.
MAX_CALLS = 3


class BatchCalls:
    """Calls handlers in the consumer's own thread, and sends the messages of each call.

    The dispatch of a consumer has one BatchCalls object, and uses it in the runner's batch mode.
    """

    def __init__(
        self,
        calls: HandlerCalls,
        decoder: Decoder,
        blocked_keys: BlockedKeys,
        overtaken_records: OvertakenRecords,
    ) -> None:
        """Create the object.

        Args:
            calls: calls the handlers.
            decoder: gets each exception, and adds the decision on the record to its delivery.
            blocked_keys: checks before a call whether a record must wait.
            overtaken_records: finds the later records that have overtaken a failed record.

        """
        self._calls = calls
        self._decoder = decoder
        self._blocked_keys = blocked_keys
        self._overtaken_records = overtaken_records

    def call(self, wrapped: WrappedHandler, records: Records) -> Failures:
        """Call a handler with records, and send the messages that it publishes.

        If a batch handler raises an exception, it is called again for each record alone.

        Args:
            wrapped: the handler, with the middleware.
            records: the records of a batch. A handler of one record is called for each of them.

        Returns:
            Maps the index of a record to its exception, for the records that failed, were dropped
            or must wait. For each of them, a decision was added to its delivery.

        Raises:
            Outage: the store, or something else that the handler needs, is unavailable. The caller
                must handle the deliveries again.

        """
        failures: Failures = {}

        def fail(index: int, error: BaseException) -> None:
            failures[index] = error
            self._decoder.fail(*locate(records, index), error)

        as_batch = (
            wrapped.handler.batch
            and len(records) > 1
            and not self._blocked_keys.any_blocked(records)
        )
        exceptions = self._call_with_batch(wrapped, records) if as_batch else None
        if exceptions is not None:
            # fail() is called in the order of the records, because it gives the next position to
            # each record that waits. The records of a key are later handled in the order of their
            # positions.
            for index, verdict in sorted(exceptions.items()):
                fail(index, verdict)
            return failures
        # The handler takes one record, or a record of the batch is blocked, or the call with the
        # whole batch has failed. So each record is handled alone: a bad record does not fail the
        # others, and a blocked record is left out.
        for index, single in enumerate(records.batches_of_one()):
            if self._blocked_keys.is_blocked_in(records, index):
                fail(index, EarlierRecordWaits())
                continue
            error = self._call_and_send(wrapped, single)
            error = error or single.verdicts.get(0)
            if error is not None:
                fail(index, error)
        return failures

    def _call_with_batch(self, wrapped: WrappedHandler, records: Records) -> Failures | None:
        """Call a batch handler; return the exceptions by the index of the record.

        If the result is None, each record must be handled alone. This is so if the handler raises
        an exception, if the broker refuses its messages, or if later records overtake failed
        records in each of MAX_CALLS calls.
        """
        # The records of the next call, and their indexes in `records`.
        remaining, indexes = records, list(range(len(records)))
        failures: Failures = {}
        for _ in range(MAX_CALLS):
            error = self._call_and_send(wrapped, remaining)
            if error is None:
                return failures | {
                    indexes[index]: verdict for index, verdict in remaining.verdicts.items()
                }
            if not isinstance(error, FailedRecordsOvertaken):
                return None
            later_indexes = self._overtaken_records.find_later(remaining, error.failed_records)
            failures |= {indexes[index]: EarlierRecordWaits() for index in later_indexes}
            kept_indexes = [index for index in range(len(indexes)) if index not in later_indexes]
            remaining, indexes = (
                remaining.at(kept_indexes),
                [indexes[index] for index in kept_indexes],
            )
        return None

    def _call_and_send(self, wrapped: WrappedHandler, records: Records) -> BaseException | None:
        """Call a handler and send its messages; return the exception of the call, or None.

        Raises:
            Outage: the store, or something else that the handler needs, is unavailable. No attempt
                is counted.

        """
        publications, error = self._calls.call(wrapped, records)
        if publications is not None:
            try:
                with publications:
                    publications.send()
            except KeyboardInterrupt:
                raise
            except BaseException as failure:  # noqa: BLE001 -- as in HandlerCalls.call()
                return self._calls.classify_error(records, failure)
        return error
