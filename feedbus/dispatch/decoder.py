"""Decode deliveries into records, and validate the records for their handlers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from feedbus.codecs import Codecs
from feedbus.dispatch.decoded_deliveries import DecodedDelivery, HandlerInput, Inputs, InvalidRecord
from feedbus.dispatch.failure_policy import Decision, FailurePolicy
from feedbus.dispatch.order_decisions import OrderDecisions
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_record_exceptions import EarlierRecordWaits
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.errors import InvalidBody, Reject
from feedbus.handling.routes import HandlerRoutes
from feedbus.records.batch import Chunk
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, decode
from feedbus.topology import Consumer, Topology
from feedbus.wire import Delivery
from feedbus.wire.constants import PACK

EXPIRED = "expired: no consumer took the delayed message within its `expires`"


class Decoder:
    """Decodes the deliveries of one consumer, and adds the decisions on their records.

    A decision contains the verdict on a record that has failed, is invalid or must wait. If a
    message is sent for the record, the decision also contains this message. The decoder adds the
    decision to DecodedDelivery.decisions.

    The records without a decision become *inputs*. An input usually has records for one handler.
    With `block_on_dead`, an input can also be one invalid record. No handler gets it, but its dead
    letter must block only the later records of its key. So the decision on it is added when the
    earlier records have been handled.

    The dispatch of a consumer has one Decoder object.
    """

    def __init__(  # noqa: PLR0913, PLR0917 -- a decoder's parts
        self,
        topology: Topology,
        consumer: Consumer,
        routes: HandlerRoutes,
        wrapped_handlers: Sequence[WrappedHandler],
        failure_policy: FailurePolicy,
        order_decisions: OrderDecisions | None,
        is_handled: Callable[[Delivery], bool],
    ) -> None:
        """Create the decoder for the handlers of a queue.

        Args:
            topology: the topology with the project's codecs.
            consumer: the consumer of the queue.
            routes: the routes, which select the handler of each message.
            wrapped_handlers: the handlers of the routes, in the same order, with the middleware.
            failure_policy: returns the decision on a record that has failed or cannot be decoded.
            order_decisions: decides which records wait; None if the queue has no `order_by`.
            is_handled: returns whether a delivery was handled before. If so, an expired delivery
                does not become a dead letter.

        """
        self._is_handled = is_handled
        self._consumer = consumer
        self._routes = routes
        self._failure_policy = failure_policy
        self._order_decisions = order_decisions
        self._order = Order.of(consumer.queue)
        # Whether the decision on an invalid record is made late, when the earlier records of its
        # key have been handled. If the decision were made at once, the dead letter would also block
        # these earlier records.
        self._decides_in_order = order_decisions is not None and consumer.queue.block_on_dead
        # With `block_on_dead`, decides which blocking messages are obsolete; otherwise None.
        self._order_on_dead = order_decisions if self._decides_in_order else None
        self._wrapped_handlers = wrapped_handlers
        self._codecs = Codecs.of(topology)
        # If all bodies are read as JSON, decode() is called directly, which is faster.
        self._only_json = not topology.codecs and all(
            each.reads == "object" for each in wrapped_handlers
        )

    def decode(self, deliveries: Sequence[Delivery]) -> tuple[list[DecodedDelivery], Inputs]:
        """Decode deliveries into the inputs for the handlers.

        The dispatch calls this for the deliveries of a batch, or for one delivery.

        Args:
            deliveries: the deliveries in the order of their arrival.

        Returns:
            Two lists: the decoded deliveries, and the inputs, in the order of the records. A record
            is in no input if the decision on this record has been added to its delivery, for
            example because the record must wait.

        """
        decoded_deliveries: list[DecodedDelivery] = []
        inputs: Inputs = []
        none_waits = self._order_decisions is None or self._order_decisions.is_idle
        for delivery in deliveries:
            decoded = self._decode_delivery(inputs, delivery)
            decoded_deliveries.append(decoded)
            if self._order_on_dead is not None:
                self._order_on_dead.note_repetition(decoded)
            # If `order_by` names a field, each record is checked, because its field can be missing
            # or can have a value that is not usable as a key.
            if (self._order.field or not none_waits) and len(decoded.pack):
                self._append_ordered(inputs, decoded)
            elif self._routes.has_one_handler:
                if len(decoded.pack):
                    self._append_valid(inputs, self._wrapped_handlers[0], decoded, decoded.pack)
            else:
                self._append_by_handler(inputs, decoded, range(len(decoded.pack)))
        return decoded_deliveries, inputs

    def key(self, decoded: DecodedDelivery, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`.

        Records with the same ordering key are handled in order.

        Args:
            decoded: the delivery of the record.
            row: the index of the record in the delivery. The record may be invalid. But if
                `order_by` names a field, the record must have a text, a number, true or false in
                this field.

        """
        return self._order.key(decoded.delivery, decoded.pack, row)

    def keys(self, decoded: DecodedDelivery) -> set[Any]:
        """Return the ordering keys of the records of a delivery; {None} without `order_by`.

        If `order_by` names a field, and this field of a record is missing or not usable as a key,
        the result has no key of this record.

        Args:
            decoded: the delivery of the records.

        """
        return self._order.keys(decoded.delivery, decoded.pack)

    def _append_ordered(self, inputs: Inputs, decoded: DecodedDelivery) -> None:
        """Append the records of a delivery to the inputs, on a queue with `order_by`.

        If a record has no usable ordering key, or must wait, it is not appended. Instead, the
        decision on the record is added to the delivery.
        """
        key_errors = self._order.key_errors(decoded.pack) if self._order.field else {}
        for row, errors in key_errors.items():
            decoded.decisions.append(
                self._failure_policy.decide(
                    decoded.delivery, decoded.pack, row, InvalidBody(errors)
                )
            )
        rows = [
            row
            for row in range(len(decoded.pack))
            if row not in key_errors and not self._decide_before_call(decoded, row)
        ]
        if len(rows) == len(decoded.pack) and self._routes.has_one_handler:
            self._append_valid(inputs, self._wrapped_handlers[0], decoded, decoded.pack)
        elif rows and self._routes.has_one_handler:
            self._append_valid(
                inputs, self._wrapped_handlers[0], decoded, decoded.pack.select(rows), rows
            )
        elif rows:
            self._append_by_handler(inputs, decoded, rows)

    def _decide_before_call(self, decoded: DecodedDelivery, row: int) -> bool:
        """If a record must not be handled now, add the decision on it, and return True."""
        if self._order_decisions is None or self._order_decisions.is_idle:
            return False
        decision = self._order_decisions.decide_before_call(decoded, row)
        if decision is not None:
            decoded.decisions.append(decision)
        return decision is not None

    def _append_valid(
        self,
        inputs: Inputs,
        wrapped: WrappedHandler,
        decoded: DecodedDelivery,
        pack: Pack,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Validate records for a handler, and append the valid records to the inputs.

        With `block_on_dead`, invalid records are appended, too, between the valid records: the
        decision on an invalid record is made when the earlier records have been handled. Without
        `block_on_dead`, the decision is made at once.

        Args:
            inputs: the inputs so far, to which the records are appended.
            wrapped: the handler of the records, with the middleware.
            decoded: the delivery of the records.
            pack: the records.
            rows: for each record of `pack`, its index in the delivery; None if `pack` has all
                records of the delivery.

        """
        loaded = wrapped.load(pack)
        chunk, errors = loaded.chunk, loaded.errors
        begin = 0
        for row in sorted(errors) if errors else ():
            if self._decides_in_order:
                end = bisect_left(chunk.rows, row)
                _append(inputs, wrapped, decoded, chunk.select(range(begin, end)), rows)
                begin = end
            self._append_invalid(
                inputs, decoded, row if rows is None else rows[row], InvalidBody(errors[row])
            )
        remaining = chunk.select(range(begin, len(chunk))) if begin else chunk
        _append(inputs, wrapped, decoded, remaining, rows)

    def _append_invalid(
        self, inputs: Inputs, decoded: DecodedDelivery, row: int, error: InvalidBody | Reject
    ) -> None:
        """With `block_on_dead`, append an invalid record to the inputs; else decide on it now."""
        if self._decides_in_order:
            inputs.append(InvalidRecord(decoded, row, error))
        else:
            self.fail(decoded, row, error)

    def _append_by_handler(
        self, inputs: Inputs, decoded: DecodedDelivery, rows: Sequence[int]
    ) -> None:
        """Append records of a delivery to the inputs, on a queue with several handlers.

        Args:
            inputs: the inputs so far, to which the records are appended.
            decoded: the delivery.
            rows: the indexes of the records in the delivery.

        """
        delivery, pack = decoded.delivery, decoded.pack
        keys = pack.keys if delivery.content_type == PACK else [delivery.original_key] * len(pack)
        for handler_index, group in groupby(
            rows, lambda row: self._routes.index_for(keys[row], delivery.properties)
        ):
            handler_rows = list(group)
            if handler_index is None:
                reason = self._routes.no_handler_reason(keys[handler_rows[0]], delivery.properties)
                for row in handler_rows:
                    self._append_invalid(inputs, decoded, row, Reject(reason))
                continue
            self._append_valid(
                inputs,
                self._wrapped_handlers[handler_index],
                decoded,
                pack.select(handler_rows),
                handler_rows,
            )

    def _decode_delivery(self, inputs: Inputs, delivery: Delivery) -> DecodedDelivery:
        if delivery.undecodable:
            return self._append_undecodable(
                inputs, delivery, self._failure_policy.reject_undecodable(delivery)
            )
        # A message that was handled before it expired can be delivered again. Then it is decoded,
        # and skipped like any other redelivery.
        if delivery.expired(self._failure_policy.clock) and not self._is_handled(delivery):
            # The message was delayed, and no consumer has taken it within its `expires`. Its dead
            # letter blocks no key, even with `block_on_dead`. The reason: if the broker itself
            # removes an expired message from a queue, no key is blocked either.
            decision = self._failure_policy.dead_letter(delivery, EXPIRED)
            return DecodedDelivery(self._consumer, delivery, _empty_pack(delivery), [decision])
        try:
            if not self._only_json:
                pack = self._decode_body(delivery)
            else:
                pack = decode(
                    delivery.body,
                    delivery.content_type,
                    delivery.message_id,
                    delivery.routing_key,
                    delivery.properties.get("content_encoding"),
                )
        except InvalidBody as error:
            return self._append_undecodable(
                inputs, delivery, self._failure_policy.reject_invalid_body(delivery, error)
            )
        return DecodedDelivery(self._consumer, delivery, pack)

    def _append_undecodable(
        self, inputs: Inputs, delivery: Delivery, decision: Decision
    ) -> DecodedDelivery:
        """Decide on an undecodable delivery at once, or append it to the inputs.

        The result is the decoded delivery, which has no records.

        With `block_on_dead`, its dead letter blocks its key, if the key is known without the body:
        if the key is the routing key, and the delivery is not a pack. Such a delivery is appended,
        because the dead letter must block only the later records.
        """
        if not (
            self._decides_in_order and self._order.by_routing_key and delivery.content_type != PACK
        ):
            return self.with_decision(delivery, decision)
        decoded = DecodedDelivery(self._consumer, delivery, _empty_pack(delivery))
        inputs.append(InvalidRecord(decoded, 0, decision=decision))
        return decoded

    def _decode_body(self, delivery: Delivery) -> Pack:
        """Return the records in the body of a delivery; a plain message has one record.

        If the project has no codec for the body, the handler of the delivery determines what the
        body is decoded to: an object, a text or bytes.
        """
        handler_index = self._routes.index_for(delivery.original_key, delivery.properties)
        return self._codecs.read(
            delivery.body,
            delivery.content_type,
            delivery.message_id,
            delivery.routing_key,
            content_encoding=delivery.properties.get("content_encoding"),
            headers=delivery.headers,
            reads=self._wrapped_handlers[handler_index].reads
            if handler_index is not None
            else "bytes",
        )

    def with_decision(self, delivery: Delivery, decision: Decision) -> DecodedDelivery:
        """Return a decoded delivery without records, with one decision on the whole delivery.

        The method is used for a delivery that cannot be decoded, or that has reached the
        `delivery_limit` of the queue.

        Args:
            delivery: the delivery.
            decision: the decision, such as a dead letter.

        """
        decoded = DecodedDelivery(self._consumer, delivery, _empty_pack(delivery))
        if self._order_on_dead is not None:
            self._order_on_dead.note_repetition(decoded)
        self._add_decision(decoded, decision)
        return decoded

    def _add_decision(self, decoded: DecodedDelivery, decision: Decision) -> None:
        if self._order_decisions is not None:
            decision = self._order_decisions.keep_delivery_in_order(decoded, decision)
        decoded.decisions.append(decision)

    def decide(self, invalid: InvalidRecord) -> None:
        """Add the decision on an invalid record, which no handler gets, to its delivery.

        BlockedKeys calls this when the earlier records of the key have been handled.

        Args:
            invalid: the record.

        """
        if invalid.decision is not None:
            self._add_decision(invalid.decoded, invalid.decision)
        elif invalid.error is not None:
            self.fail(invalid.decoded, invalid.row, invalid.error)

    def fail(
        self,
        decoded: DecodedDelivery,
        row: int,
        error: BaseException,
        *,
        messages_sent: bool = False,
    ) -> None:
        """Add the decision on a failed or waiting record to its delivery.

        This method is called after the call of a handler, or in place of the call.

        Args:
            decoded: the delivery.
            row: the index of the record in the delivery.
            error: the exception of the handler; or EarlierRecordWaits, if the record must wait; or
                another reason why no handler was called.
            messages_sent: whether the messages were sent that the handler has published for the
                record, because the error is a verdict of a batch handler.

        """
        delivery, pack = decoded.delivery, decoded.pack
        if isinstance(error, EarlierRecordWaits):
            decision = self._failure_policy.defer(delivery, pack, row)
        else:
            decision = self._failure_policy.decide(delivery, pack, row, error)
            if messages_sent:
                decision = decision.after_run(delivery)
        if self._order_decisions is not None:
            decision = self._order_decisions.keep_in_order(decoded, row, decision)
        decoded.decisions.append(decision)


def _append(
    inputs: Inputs,
    wrapped: WrappedHandler,
    decoded: DecodedDelivery,
    chunk: Chunk,
    rows: Sequence[int] | None,
) -> None:
    """Append valid records to the earlier inputs.

    Args:
        inputs: the inputs so far, to which the records are appended.
        wrapped: the handler of the records, with the middleware.
        decoded: the delivery of the records.
        chunk: the records.
        rows: for each record of `chunk`, its index in the delivery; None if `chunk` has all records
            of the delivery.

    """
    if not len(chunk):
        return
    if rows is not None:
        chunk = replace(chunk, rows=[rows[row] for row in chunk.rows])
    latest = inputs[-1] if inputs else None
    if not isinstance(latest, HandlerInput) or latest.wrapped is not wrapped:
        latest = HandlerInput(wrapped)
        inputs.append(latest)
    latest.chunks.append(chunk)
    latest.deliveries.append(decoded)


def _empty_pack(delivery: Delivery) -> Pack:
    return Pack(Ids(delivery.message_id, None), [], {}, {})
