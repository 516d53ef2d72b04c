"""Decide what happens to a failed record: it is tried again, dropped, or becomes a dead letter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from feedbus.broker import timer
from feedbus.broker_names import Names
from feedbus.clock import Clock
from feedbus.errors import Drop, InvalidBody, Reject, Retry, described, text_of
from feedbus.handling.exception_rules import ExceptionRules
from feedbus.metrics import Verdict
from feedbus.records.packs import Pack
from feedbus.records.payloads import encode_payload
from feedbus.topology import Consumer
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import (
    ATTEMPT,
    CONSUMER,
    ERRORS,
    EXCHANGE,
    FAILED_AT,
    JSON,
    KEY,
    PACK,
    QUEUE,
    REASON,
    RUN,
    SENT_AT,
    TRACEBACK,
)
from feedbus.wire.failed_messages import (
    errors_text,
    kept_properties,
    of_record,
    reason_text,
    traceback_text,
)
from feedbus.wire.message_in_message import seal

MAX_NAMED_PARTS = 5  # how many undecodable parts of a message the reason of its dead letter names
DEAD_LETTER_VERDICTS: frozenset[Verdict] = frozenset({"reject", "invalid", "dead_letter"})
# These headers say when and why an attempt has failed. The message of a record that only waits for
# earlier records has none of them.
ATTEMPT_HEADERS = frozenset({FAILED_AT, REASON})


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on a record that has failed, is invalid or must wait, and the message to send.

    The decoder adds the decision to the delivery. The message is sent before the delivery is
    acknowledged.

    Attributes:
        verdict: "retry"; "drop"; or "wait" if the record was not handled, because earlier records
            of its key wait. With three verdicts, the record becomes a dead letter: "reject" (an
            exception such as Reject forbids a retry, or no handler is declared for the record),
            "invalid" (the record is not valid or cannot be decoded) and "dead_letter" (the last
            attempt has failed, the message has expired, or `delivery_limit` was reached).
        message: the dead letter; or the message of a record that is tried again or must wait; or
            None if nothing is sent.
        delay_milliseconds: if the record is tried again on a queue with `order_by`, the shortest
            time until the next attempt. For a record that is sent to the waiting queue because it
            must wait, the value is 0. In all other cases, it is None.
        blocking_message: a message for the waiting queue, which blocks the key of a dead letter
            until an operator requeues or drops the dead letter; None if the key is not blocked.
        dead_handler_called: whether the dead handler was called with this dead letter. It is not
            called again while the broker refuses the dead letter.

    """

    verdict: Verdict | Literal["wait"]
    message: Outgoing | None
    delay_milliseconds: int | None = None
    blocking_message: Outgoing | None = None
    dead_handler_called: bool = False

    @property
    def is_dead_letter(self) -> bool:
        """Whether the message is a dead letter."""
        return self.message is not None and self.verdict in DEAD_LETTER_VERDICTS

    def after_run(self, delivery: Delivery) -> Decision:
        """Return the decision with a message whose run is that of the delivery plus 1.

        The run is the number of failures after which messages of a handler were sent: see
        Delivery.run. The decoder and the dead handler call this after such a failure. A decision
        without a message is returned unchanged.

        Args:
            delivery: the delivery of the record.

        """
        if self.message is None:
            return self
        headers = {**self.message.headers, RUN: delivery.run + 1}
        return replace(self, message=replace(self.message, headers=headers))


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """The retry policy of one consumer: it decides what happens to each record that failed.

    The dispatch of a consumer has one FailurePolicy object.

    Attributes:
        names: the names of the objects on the broker.
        consumer: the consumer that has the policy.
        rules: determine after which exceptions a record is tried again.
        clock: gives the time of each failure.
        in_order: whether the queue has `order_by`. Then a record that is tried again is sent to the
            waiting queue, not to a retry queue.

    """

    names: Names
    consumer: Consumer
    rules: ExceptionRules
    clock: Clock
    in_order: bool = False

    def reject_undecodable(self, delivery: Delivery) -> Decision:
        """Return the decision to dead-letter a message whose properties cannot be decoded.

        These properties cannot be sent unchanged. So the dead letter is a *sealed message*: its
        body contains the original message.

        The decoder calls this.

        Args:
            delivery: the delivery of the message.

        """
        parts = [*delivery.undecodable[:MAX_NAMED_PARTS]]
        if len(delivery.undecodable) > MAX_NAMED_PARTS:
            parts.append(f"and {len(delivery.undecodable) - MAX_NAMED_PARTS} more")
        letter = self._letter_of_delivery(delivery, f"cannot be decoded: {'; '.join(parts)}")
        return Decision("invalid", seal(letter))

    def reject_invalid_body(self, delivery: Delivery, error: InvalidBody) -> Decision:
        """Return the decision to dead-letter a message whose body is not valid.

        The dead letter has the same body and properties as the message.

        The decoder calls this.

        Args:
            delivery: the delivery of the message.
            error: what is wrong with the body; it becomes the reason of the dead letter.

        """
        extra = {ERRORS: errors_text(error.errors)}
        return Decision("invalid", self._letter_of_delivery(delivery, text_of(error), extra))

    def dead_letter(self, delivery: Delivery, reason: str) -> Decision:
        """Return the decision to dead-letter a whole delivery without decoding it.

        feedbus uses this for an expired message, and for a message that ended its process too
        often.

        Args:
            delivery: the delivery of the message, which becomes the dead letter unchanged. If its
                properties cannot be decoded, the dead letter is a sealed message, as in
                reject_undecodable().
            reason: the reason of the dead letter.

        """
        letter = self._letter_of_delivery(delivery, reason)
        return Decision("dead_letter", seal(letter) if delivery.undecodable else letter)

    def decide(self, delivery: Delivery, pack: Pack, row: int, error: BaseException) -> Decision:
        """Return the decision on one failed record: a retry, a drop or a dead letter.

        The decoder calls this for each record that failed or is invalid.

        Args:
            delivery: the delivery.
            pack: the records of the delivery.
            row: the index of the record in the delivery.
            error: the exception or verdict of the handler, or the error of the validation.

        """
        if isinstance(error, Drop):
            return Decision("drop", None)
        if isinstance(error, InvalidBody):
            letter = self._letter_of_record(delivery, pack, row, text_of(error))
            headers = {**letter.headers, ERRORS: errors_text(error.errors)}
            return Decision("invalid", replace(letter, headers=headers))
        if isinstance(error, Reject):
            return Decision("reject", self._letter_of_record(delivery, pack, row, text_of(error)))
        reason = text_of(error) if isinstance(error, Retry) else described(error)
        if not isinstance(error, Retry) and self.rules.rejects(error):
            return Decision(
                "reject",
                _with_traceback(self._letter_of_record(delivery, pack, row, reason), error),
            )
        return self._retry(self._letter_of_record(delivery, pack, row, reason), error)

    def defer(self, delivery: Delivery, pack: Pack, row: int) -> Decision:
        """Return the decision that a record waits for earlier records of its key.

        This does not count as an attempt. The decoder calls this on a queue with `order_by`.

        Args:
            delivery: the delivery that contains the record.
            pack: the records of the delivery.
            row: the index of the record in the delivery.

        """
        letter = self._letter_of_record(delivery, pack, row, "")
        kept_headers = {
            name: value for name, value in letter.headers.items() if name not in ATTEMPT_HEADERS
        }
        headers = {**kept_headers, ATTEMPT: delivery.attempts}
        return Decision("wait", replace(letter, headers=headers, counted_as="retry"), 0)

    def _retry(self, letter: Outgoing, error: BaseException) -> Decision:
        """Return the decision on a record whose attempt has failed, by the queue's retry policy.

        Args:
            letter: the dead letter of the record, which is sent if there is no other attempt.
                Otherwise the message for the next attempt is made from it.
            error: the exception or verdict of the handler.

        """
        policy = self.consumer.queue.retry
        attempt = int(letter.headers[ATTEMPT])
        if attempt > len(policy.delays_seconds) and policy.then != "repeat":
            if policy.then == "drop":
                return Decision("drop", None)
            return Decision("dead_letter", _with_traceback(letter, error))
        delay_seconds = policy.delays_seconds[min(attempt, len(policy.delays_seconds)) - 1]
        if isinstance(error, Retry) and error.after_seconds is not None:
            delay_seconds = error.after_seconds
        milliseconds = max(1, round(delay_seconds * 1000))
        if self.in_order:
            # OrderDecisions.keep_in_order() changes the message, so that it goes to the waiting
            # queue.
            return Decision("retry", replace(letter, counted_as="retry"), milliseconds)
        message = replace(letter, routing_key=str(letter.headers[KEY]), counted_as="retry")
        queue = self.consumer.queue
        if milliseconds in policy.delays_milliseconds:
            # The exchange in front of the retry queue has the same name as the queue.
            exchange = self.names.retry_queue(queue, milliseconds)
            return Decision("retry", replace(message, exchange=exchange))
        # No retry queue has this delay, which the handler has chosen with Retry. So the message is
        # sent to the timer, a set of queues that delay messages by any time.
        target = timer.retry_target(self.names, queue)
        return Decision("retry", timer.delay_message(self.names, message, milliseconds, target))

    def _letter_of_record(self, delivery: Delivery, pack: Pack, row: int, reason: str) -> Outgoing:
        """Return a dead letter that contains one record of a delivery."""
        whole = self._letter_of_delivery(delivery, reason)
        if delivery.content_type != PACK:
            return whole
        record = of_record(whole)
        return replace(
            record,
            body=encode_payload(pack.payload(row)),
            content_type=JSON,
            content_encoding="utf-8",
            message_id=pack.ids[row],
            headers={**record.headers, KEY: pack.key(row)},
        )

    def _letter_of_delivery(
        self, delivery: Delivery, reason: str, extra: Mapping[str, Any] | None = None
    ) -> Outgoing:
        """Return a dead letter that contains a whole delivery with all its properties."""
        properties, headers = kept_properties(delivery)
        headers |= {
            ATTEMPT: delivery.attempts + 1,
            CONSUMER: self.consumer.name,
            EXCHANGE: self.consumer.queue.exchange,
            FAILED_AT: self.clock.wall_nanoseconds() // 1000,
            KEY: delivery.original_key,
            QUEUE: self.consumer.queue.name,
            REASON: reason_text(reason),
            **(extra or {}),
        }
        return Outgoing(
            "",
            self.names.dead(self.consumer.queue),
            delivery.body,
            delivery.properties.get("content_type"),
            delivery.retry_id or delivery.message_id,
            headers,
            "dead-letter",
            properties,
            delivery.properties.get("content_encoding"),
            stamp=SENT_AT,
            records=delivery.record_count,
        )


def _with_traceback(letter: Outgoing, error: BaseException) -> Outgoing:
    """Return a dead letter with the traceback of its exception.

    For a Retry, no traceback is added: the reason that the handler has given is enough.
    """
    text = "" if isinstance(error, Retry) else traceback_text(error)
    return replace(letter, headers={**letter.headers, TRACEBACK: text}) if text else letter
