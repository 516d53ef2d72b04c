"""Decoded deliveries, and their records in the order in which handlers get them."""

from __future__ import annotations

from dataclasses import dataclass, field

from feedbus.dispatch.failure_policy import Decision
from feedbus.dispatch.wrapped_handlers import WrappedHandler
from feedbus.records.batch import Chunk
from feedbus.records.message import Message
from feedbus.records.packs import Pack
from feedbus.topology import Consumer
from feedbus.wire import Delivery
from feedbus.wire.constants import PACK, RUN


@dataclass(slots=True)
class DecodedDelivery:
    """A decoded delivery: its records, and the decisions on its failed records.

    The decoder creates one DecodedDelivery object for each delivery. It exists until the delivery
    is settled.

    Attributes:
        consumer: the consumer that received the delivery.
        delivery: the delivery.
        pack: the records; empty if the delivery was not decoded.
        decisions: the decisions on records that have failed, are invalid or must wait, or on the
            whole delivery.

    """

    consumer: Consumer
    delivery: Delivery
    pack: Pack
    decisions: list[Decision] = field(default_factory=list)

    @property
    def has_own_ids(self) -> bool:
        """Whether the publisher gave the ids of the records, so that no other records have them.

        Otherwise feedbus has derived the id from the content. Then equal messages have equal ids. A
        pack always contains the ids of its records.
        """
        return self.delivery.identified or self.delivery.content_type == PACK

    @property
    def run(self) -> int:
        """How often the record has failed and messages published for it were sent anyway.

        Usually the number is 0: the messages of a failed call are discarded. Delivery.run lists the
        cases in which they are sent. The ids of later messages for the record depend on the number.
        So they differ from the ids of the messages that were sent.
        """
        return self.delivery.run if RUN in self.delivery.headers else 0

    def routing_key(self, row: int) -> str:
        """Return the routing key with which one record of the delivery was published.

        Args:
            row: the index of the record in the delivery.

        """
        is_pack = self.delivery.content_type == PACK
        return self.pack.key(row) if is_pack else self.delivery.original_key

    def message(self, row: int) -> Message:
        """Return the properties of one record of the delivery, as a handler gets them.

        Args:
            row: the index of the record in the delivery.

        """
        return Message.of(
            self.delivery,
            routing_key=self.routing_key(row),
            message_id=self.pack.ids[row],
            queue=self.consumer.queue.name,
            consumer=self.consumer.name,
        )


@dataclass(slots=True)
class HandlerInput:
    """Consecutive records for the same handler, in chunks; the decoder creates it.

    Attributes:
        wrapped: the handler, with the middleware.
        chunks: the records. All records of a chunk are from one delivery.
        deliveries: for each chunk, the delivery that contained it.

    """

    wrapped: WrappedHandler
    chunks: list[Chunk] = field(default_factory=list)
    deliveries: list[DecodedDelivery] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class InvalidRecord:
    """A record that no handler gets: it has errors, or no handler is declared for it.

    It can also stand for a whole delivery that cannot be decoded.

    This class is used on queues whose dead letters block their keys (`block_on_dead`). There, the
    record must block only the later records of its key. So the decision on the record is made when
    the earlier records of its key have been handled. On other queues, the decoder decides at once.

    Attributes:
        decoded: the delivery.
        row: the index of the record in the delivery; 0 if the delivery cannot be decoded.
        error: why no handler gets the record; None if the delivery cannot be decoded.
        decision: the decision on a delivery that cannot be decoded; None if it can.

    """

    decoded: DecodedDelivery
    row: int
    error: BaseException | None = None
    decision: Decision | None = None


Inputs = list[HandlerInput | InvalidRecord]
