"""Decode deliveries into records, and validate them for their handler."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from feedbus.codecs import Codecs
from feedbus.dispatch.decoded_deliveries import Decoded, HandlerInput, Inputs, InvalidRecord
from feedbus.dispatch.failure_policy import Decision, FailurePolicy
from feedbus.dispatch.ordered_retries import OrderedRetries
from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_record_exceptions import Waits
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
    """Decodes the deliveries of one consumer, and adds the decisions on their failed records."""

    def __init__(  # noqa: PLR0913, PLR0917 -- a decoder's parts
        self,
        topology: Topology,
        consumer: Consumer,
        routes: HandlerRoutes,
        wrapped_handlers: Sequence[WrappedHandler],
        failure_policy: FailurePolicy,
        retries: OrderedRetries | None,
    ) -> None:
        """Create the decoder for the handlers of a queue.

        Args:
            topology: the topology with the project's codecs.
            consumer: the consumer of the queue.
            routes: the routes to the queue's handlers.
            wrapped_handlers: the handlers of the routes, in the same order, with the middleware.
            failure_policy: returns the decision on a record or delivery that cannot be read.
            retries: the waiting records; None if the queue has no `order_by`.

        """
        self._consumer = consumer
        self._routes = routes
        self._failure_policy = failure_policy
        self._retries = retries
        self._order = Order.of(consumer.queue)
        # Whether the decision on an invalid record is made after the earlier records of its key.
        self._in_turn = retries is not None and consumer.queue.block_on_dead
        self._wrapped_handlers = wrapped_handlers
        self._codecs = Codecs.of(topology)
        self._json_alone = not topology.codecs and all(
            each.reads == "object" for each in wrapped_handlers
        )

    def decode(self, deliveries: Sequence[Delivery]) -> tuple[list[Decoded], Inputs]:
        """Decode deliveries; return them, and the records for handlers and the invalid records."""
        opened: list[Decoded] = []
        inputs: Inputs = []
        free = self._retries is None or self._retries.idle
        for delivery in deliveries:
            arrived = self._open(inputs, delivery)
            opened.append(arrived)
            if (self._order.field or not free) and len(arrived.pack):
                self._take_ordered(inputs, arrived)
            elif self._routes.only:
                if len(arrived.pack):
                    self._take(inputs, self._wrapped_handlers[0], arrived, arrived.pack)
            else:
                self._route(inputs, arrived, range(len(arrived.pack)))
        return opened, inputs

    def key(self, arrived: Decoded, row: int) -> Any:
        """Return a record's ordering key, or None if the queue has no `order_by`."""
        return self._order.key(arrived.delivery, arrived.pack, row)

    def _take_ordered(self, inputs: Inputs, arrived: Decoded) -> None:
        """Take a delivery's records, except records that must wait or that have no ordering key."""
        keyless = self._order.key_errors(arrived.pack) if self._order.field else {}
        for row, errors in keyless.items():
            arrived.decisions.append(
                self._failure_policy.decide(
                    arrived.delivery, arrived.pack, row, InvalidBody(errors)
                )
            )
        left = [
            row
            for row in range(len(arrived.pack))
            if row not in keyless and not self._waits(arrived, row)
        ]
        if len(left) == len(arrived.pack) and self._routes.only:
            self._take(inputs, self._wrapped_handlers[0], arrived, arrived.pack)
        elif left and self._routes.only:
            self._take(inputs, self._wrapped_handlers[0], arrived, arrived.pack.select(left), left)
        elif left:
            self._route(inputs, arrived, left)

    def _waits(self, arrived: Decoded, row: int) -> bool:
        """Whether a record must wait, because earlier records of its key wait."""
        if self._retries is None or self._retries.idle:
            return False
        decision = self._retries.before(arrived.delivery, arrived.pack, row)
        if decision is not None:
            arrived.decisions.append(decision)
        return decision is not None

    def _take(
        self,
        inputs: Inputs,
        wrapped: WrappedHandler,
        arrived: Decoded,
        pack: Pack,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Load records for a handler, and append them to the inputs.

        Args:
            inputs: the earlier inputs.
            wrapped: the handler of the records, with the middleware.
            arrived: the delivery of the records.
            pack: the records.
            rows: the index of each record in its delivery, if these are not all of its records.

        """
        loaded = wrapped.load(pack)
        chunk, errors = loaded.chunk, loaded.errors
        begin = 0
        for row in sorted(errors) if errors else ():
            if self._in_turn:
                end = bisect_left(chunk.rows, row)
                _append(inputs, wrapped, arrived, chunk.select(range(begin, end)), rows)
                begin = end
            self._refuse(
                inputs, arrived, row if rows is None else rows[row], InvalidBody(errors[row])
            )
        rest = chunk.select(range(begin, len(chunk))) if begin else chunk
        _append(inputs, wrapped, arrived, rest, rows)

    def _refuse(
        self, inputs: Inputs, arrived: Decoded, row: int, error: InvalidBody | Reject
    ) -> None:
        """Decide on an invalid record; with block_on_dead, after the earlier records of its key."""
        if self._in_turn:
            inputs.append(InvalidRecord(arrived, row, error))
        else:
            self.fail(arrived, row, error)

    def _route(self, inputs: Inputs, arrived: Decoded, rows: Sequence[int]) -> None:
        """Split the records of a delivery into sequences of records for the same handler."""
        delivery, pack = arrived.delivery, arrived.pack
        keys = pack.keys if delivery.content_type == PACK else [delivery.original_key] * len(pack)
        for number, some in groupby(
            rows, lambda row: self._routes.place(keys[row], delivery.properties)
        ):
            own = list(some)
            if number is None:
                reason = self._routes.lacking(keys[own[0]], delivery.properties)
                for row in own:
                    self._refuse(inputs, arrived, row, Reject(reason))
                continue
            self._take(inputs, self._wrapped_handlers[number], arrived, pack.select(own), own)

    def _open(self, inputs: Inputs, delivery: Delivery) -> Decoded:
        if delivery.undecodable:
            return self._refuse_whole(inputs, delivery, self._failure_policy.undecodable(delivery))
        if delivery.expired(self._failure_policy.clock):
            # The message blocks no key, as if the broker itself had expired it.
            decision = self._failure_policy.dead_letter(delivery, EXPIRED)
            return Decoded(self._consumer, delivery, _nothing(delivery), [decision])
        try:
            if not self._json_alone:
                pack = self._read(delivery)
            else:
                pack = decode(
                    delivery.body,
                    delivery.content_type,
                    delivery.message_id,
                    delivery.routing_key,
                    delivery.properties.get("content_encoding"),
                )
        except InvalidBody as error:
            return self._refuse_whole(
                inputs, delivery, self._failure_policy.unreadable(delivery, error)
            )
        return Decoded(self._consumer, delivery, pack)

    def _refuse_whole(self, inputs: Inputs, delivery: Delivery, decision: Decision) -> Decoded:
        """Decide on an undecodable delivery now, or let it wait for earlier records of its key."""
        if not (self._in_turn and self._order.by_key and delivery.content_type != PACK):
            return self.with_decision(delivery, decision)
        arrived = Decoded(self._consumer, delivery, _nothing(delivery))
        inputs.append(InvalidRecord(arrived, 0, decision=decision))
        return arrived

    def _read(self, delivery: Delivery) -> Pack:
        """Decode a body as an object, a text or bytes, as its handler expects."""
        place = self._routes.place(delivery.original_key, delivery.properties)
        return self._codecs.read(
            delivery.body,
            delivery.content_type,
            delivery.message_id,
            delivery.routing_key,
            content_encoding=delivery.properties.get("content_encoding"),
            headers=delivery.headers,
            reads=self._wrapped_handlers[place].reads if place is not None else "bytes",
        )

    def with_decision(self, delivery: Delivery, decision: Decision) -> Decoded:
        """Return a decoded delivery without records, with one decision on the whole delivery."""
        arrived = Decoded(self._consumer, delivery, _nothing(delivery))
        self._add_decision(arrived, decision)
        return arrived

    def _add_decision(self, arrived: Decoded, decision: Decision) -> None:
        if self._retries is not None:
            decision = self._retries.after_whole(arrived.delivery, arrived.pack, decision)
        arrived.decisions.append(decision)

    def decide(self, invalid: InvalidRecord) -> None:
        """Decide on a record that no handler gets, after the earlier records of its key."""
        if invalid.decision is not None:
            self._add_decision(invalid.arrived, invalid.decision)
        elif invalid.error is not None:
            self.fail(invalid.arrived, invalid.row, invalid.error)

    def fail(self, opened: Decoded, row: int, error: BaseException) -> None:
        """Decide on a failed record by its exception; add the decision to the delivery."""
        delivery, pack = opened.delivery, opened.pack
        if isinstance(error, Waits):
            decision = self._failure_policy.deferred(delivery, pack, row)
        else:
            decision = self._failure_policy.decide(delivery, pack, row, error)
        if self._retries is not None:
            decision = self._retries.after(delivery, pack, row, decision)
        opened.decisions.append(decision)


def _append(
    inputs: Inputs,
    wrapped: WrappedHandler,
    arrived: Decoded,
    chunk: Chunk,
    rows: Sequence[int] | None,
) -> None:
    """Append records to the earlier inputs; see Decoder._take()."""
    if not len(chunk):
        return
    if rows is not None:
        chunk = replace(chunk, rows=[rows[row] for row in chunk.rows])
    latest = inputs[-1] if inputs else None
    if not isinstance(latest, HandlerInput) or latest.wrapped is not wrapped:
        latest = HandlerInput(wrapped)
        inputs.append(latest)
    latest.chunks.append(chunk)
    latest.arrived.append(arrived)


def _nothing(delivery: Delivery) -> Pack:
    return Pack(Ids(delivery.message_id, None), [], {}, {})
