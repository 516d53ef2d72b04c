"""Calls of handlers for the records of a batch.

If a batch handler raises an exception, the handler is called again for each record alone. But if
the cause is an outage, the runner handles the same deliveries again later.

A batch handler can set a verdict on each record. Example for `order_by`: a batch has the records A1
and A2 of one key. The handler asks for a retry of A1, but handles A2. Then the effects of the call
are discarded, so that A2 does not overtake A1. The handler is called again without A2, which waits.
"""

from __future__ import annotations

from feedbus.dispatch.blocked_keys import BlockedKeys
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.handler_calls import HandlerCalls
from feedbus.dispatch.overtaken_in_batch import OvertakenRecords, locate
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits, FailedRecordsOvertaken
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records import Records

Failures = dict[int, BaseException]  # by the index of the record in the batch

# If a failed record was overtaken by later records of its key, the handler is called again without
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
            decoder: adds the decisions on records that fail or must wait to their deliveries.
            blocked_keys: checks before a call whether a record must wait.
            overtaken_records: finds the later records that have overtaken a failed record.

        """
        self._calls = calls
        self._decoder = decoder
        self._blocked_keys = blocked_keys
        self._overtaken_records = overtaken_records

    def call(self, wrapped: WrappedHandler, records: Records) -> Failures:
        """Call a handler with records, and send the messages that it publishes.

        A batch handler is called with the whole batch. If this call fails, or if a record of the
        batch must wait, the handler is called for each record alone.

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

        def fail(index: int, error: BaseException, *, messages_sent: bool = False) -> None:
            failures[index] = error
            self._decoder.fail(*locate(records, index), error, messages_sent=messages_sent)

        as_batch = (
            wrapped.handler.batch
            and len(records) > 1
            and not self._blocked_keys.any_blocked(records)
        )
        exceptions = self._call_with_batch(wrapped, records) if as_batch else None
        if exceptions is not None:
            # The order of these calls is the order of the records: fail() gives the next position,
            # a number, to each record that waits. Waiting records of one key are later handled in
            # the order of their positions.
            for index, verdict in sorted(exceptions.items()):
                fail(index, verdict, messages_sent=index in records.batch.published)
            return failures
        # The handler takes one record, or a record of the batch is blocked, or the call with the
        # whole batch has failed. So each record is handled alone: a bad record does not fail the
        # others, and a blocked record is left out.
        for index, single in enumerate(records.batches_of_one()):
            if self._blocked_keys.is_blocked_in(records, index):
                fail(index, EarlierRecordWaits())
                continue
            error = self._call_and_send(wrapped, single)
            if error is not None:
                fail(index, error)
            elif 0 in single.verdicts:
                fail(index, single.verdicts[0], messages_sent=bool(single.batch.published))
        return failures

    def _call_with_batch(self, wrapped: WrappedHandler, records: Records) -> Failures | None:
        """Call a batch handler; return the exceptions of the records that fail or must wait.

        The result is None if each record must be handled alone: if the handler raises an exception,
        if the broker refuses its messages, or if later records overtake failed records in each of
        MAX_CALLS calls.
        """
        # The records of the next call, and their indexes in `records`.
        remaining, indexes = records, list(range(len(records)))
        failures: Failures = {}
        for _ in range(MAX_CALLS):
            error = self._call_and_send(wrapped, remaining)
            if error is None:
                records.batch.published = {indexes[each] for each in remaining.batch.published}
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
            except BaseException as failure:  # noqa: BLE001 -- classified, as any failure of a call
                return self._calls.classify_error(records, failure)
        return error
