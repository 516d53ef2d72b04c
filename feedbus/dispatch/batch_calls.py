"""Calls of batch handlers; if a call raises, each of its records is handled alone.

A batch handler may ask for a retry of a record although it has handled later records of its key.
Then the effects of the call are discarded. The batch is handled again without these later records,
which wait. This case is frequent in a batch of waiting records, which has many records of each key.
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

# If records of a batch were overtaken, the batch is called again, up to this number of calls. After
# them, each record is handled alone.
MAX_CALLS = 3


class BatchCalls:
    """Calls handlers in the consumer's own thread, and sends the messages of each call."""

    def __init__(
        self,
        calls: HandlerCalls,
        decoder: Decoder,
        blocked_keys: BlockedKeys,
        overtaken_records: OvertakenRecords,
    ) -> None:
        """Create the object; the decoder gets each failure, and adds the decision on the record."""
        self._calls = calls
        self._decoder = decoder
        self._blocked_keys = blocked_keys
        self._overtaken_records = overtaken_records

    def call(self, wrapped: WrappedHandler, records: Records) -> Failures:
        """Call the handler with records, and return the exceptions by record.

        Raises:
            Outage: the store, or something else that the handler needs, is unavailable; the
                deliveries must be handled again.

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
            # The order matters: each record that has to wait gets the next position of its key.
            for index, verdict in sorted(exceptions.items()):
                fail(index, verdict)
            return failures
        # The handler is called for one record at a time, also after a batch handler has raised. So
        # a bad record does not fail the others.
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
        """Call the handler with a batch; return the exceptions by record, or None if it raised."""
        remaining, indexes = records, list(range(len(records)))
        failures: Failures = {}
        for _ in range(MAX_CALLS):
            error = self._call_and_send(wrapped, remaining)
            if error is None:
                return failures | {
                    indexes[index]: each for index, each in remaining.verdicts.items()
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
            Outage: the store, or something else that the handler needs, is unavailable; no
                attempt is counted.

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
