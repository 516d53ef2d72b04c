"""Calls of batch handlers; if a call raises, each of its records is handled alone.

A batch handler may ask for a retry of a record although it has handled later records of its key.
Then the effects of the call are discarded. The batch is handled again without these later records,
which wait. This case is frequent in a batch of waiting records, which has many records of each key.
"""

from __future__ import annotations

from feedbus.dispatch.blocked_keys import BlockedKeys, origin
from feedbus.dispatch.decoder import Decoder
from feedbus.dispatch.handler_calls import HandlerCalls
from feedbus.dispatch.waiting_record_exceptions import Overtook, Waits
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records import Records

Failures = dict[int, BaseException]

# If records of a batch were overtaken, the batch is called again, up to this number of calls. After
# them, each record is handled alone.
MOST_CALLS = 3


class BatchCalls:
    """Calls handlers in the consumer's own thread, and sends the messages of each call."""

    def __init__(self, calls: HandlerCalls, decoder: Decoder, blocked: BlockedKeys) -> None:
        """Create the object; the decoder gets each failure, and adds the decision on the record."""
        self._calls = calls
        self._decoder = decoder
        self._blocked = blocked

    def perform(self, wrapped: WrappedHandler, records: Records) -> Failures:
        """Call the handler with records, and return the exceptions by record.

        Raises:
            Outage: something is unavailable; the deliveries must be handled again.

        """
        failures: Failures = {}

        def fail(index: int, error: BaseException) -> None:
            failures[index] = error
            self._decoder.fail(*origin(records, index), error)

        many = wrapped.handler.batch and len(records) > 1 and not self._blocked.any_waits(records)
        found = self._together(wrapped, records) if many else None
        if found is not None:
            # The order matters: each record that has to wait gets the next position of its key.
            for index, verdict in sorted(found.items()):
                fail(index, verdict)
            return failures
        # The handler is called for one record at a time, also after a batch handler has raised. So
        # a bad record does not fail the others.
        for index, single in enumerate(records.batches_of_one()):
            if self._blocked.waits_in(records, index):
                fail(index, Waits())
                continue
            error = self._attempt(wrapped, single)
            error = error or single.verdicts.get(0)
            if error is not None:
                fail(index, error)
        return failures

    def _together(self, wrapped: WrappedHandler, records: Records) -> Failures | None:
        """Call the handler with a batch; return the exceptions by record, or None if it raised."""
        left, places = records, list(range(len(records)))
        failures: Failures = {}
        for _ in range(MOST_CALLS):
            error = self._attempt(wrapped, left)
            if error is None:
                return failures | {places[index]: each for index, each in left.verdicts.items()}
            if not isinstance(error, Overtook):
                return None
            behind = self._blocked.behind(left, error.failed)
            failures |= {places[index]: Waits() for index in behind}
            kept = [index for index in range(len(places)) if index not in behind]
            left, places = left.at(kept), [places[index] for index in kept]
        return None

    def _attempt(self, wrapped: WrappedHandler, records: Records) -> BaseException | None:
        """Call a handler and send its messages; return the exception of the call, or None.

        Raises:
            Outage: something is unavailable; no attempt is counted.

        """
        publications, error = self._calls.outcome(wrapped, records)
        if publications is not None:
            try:
                with publications:
                    publications.send()
            except KeyboardInterrupt:
                raise
            except BaseException as failure:  # noqa: BLE001 -- as in HandlerCalls.outcome()
                return self._calls.classify_error(records, failure)
        return error
