"""The messages in waiting queues: write the message of a waiting record, and read it.

The message of a waiting record contains the record in the same form as a retry, and has these
additional headers:

- PLACE: the position of the record, a number. The records of a key are handled in the order of
  their positions.
- ORDER_KEY: the ordering key, if it is not the routing key.
- NOT_BEFORE: the earliest time of the next attempt; 0 if the record only waits for earlier ones.

If a dead letter blocks its key (`block_on_dead`), the dead letter itself is in the queue of dead
letters. A message without a body in the waiting queue blocks the key. This message has the header
BLOCKED instead of NOT_BEFORE.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from feedbus.dispatch.queue_order import Order
from feedbus.dispatch.waiting_record import DEAD_LETTER_ATTEMPT, Arrival, WaitingRecord
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.constants import BLOCKED, NOT_BEFORE, ORDER_KEY, PLACE, TRACEBACK

MICROSECONDS = 1_000_000
NUMBER_LIMIT = 2**62  # a header with this number or a higher one is ignored


def decode_waiting_message(
    arrival: Arrival, order: Order, waiting_queue: str, generation_number: int
) -> WaitingRecord:
    """Return the waiting record that a delivered message of a waiting queue contains.

    The position of the record is 0 if the message contains no position.

    WaitingDeliveries calls this for each delivery that contains a waiting record, or that blocks
    the key of a dead letter.

    Args:
        arrival: the delivery.
        order: determines whether the ordering key is the routing key, or is in a header.
        waiting_queue: the waiting queue that delivered the message.
        generation_number: the number of the generation that the waiting queue belongs to.

    """
    delivery = arrival.delivery
    blocks = BLOCKED in delivery.headers
    return WaitingRecord(
        delivery.original_key if order.by_routing_key else str(delivery.headers.get(ORDER_KEY, "")),
        _decode_int_header(delivery, PLACE),
        delivery.message_id,
        delivery.identified,
        DEAD_LETTER_ATTEMPT if blocks else delivery.attempts,
        math.inf if blocks else _decode_int_header(delivery, NOT_BEFORE) / MICROSECONDS,
        waiting_queue,
        arrival,
        generation_number=generation_number,
    )


def encode_waiting_message(
    record: WaitingRecord, due_at: float, order: Order, waiting_queue: str, message: Outgoing
) -> Outgoing:
    """Return the message with which a record waits, or with which a dead letter blocks its key.

    OrderDecisions calls this; the message is sent to the waiting queue.

    Args:
        record: the waiting record, or the dead letter.
        due_at: when the record may be handled, in seconds since 1970; 0 if it only waits for
            earlier records; infinity for a dead letter.
        order: determines whether the message needs a header with the ordering key.
        waiting_queue: the waiting queue that the message is sent to.
        message: the retry or the dead letter, from which the message is made.

    """
    own_headers: dict[str, Any] = {PLACE: record.position}
    if not order.by_routing_key:
        own_headers[ORDER_KEY] = record.key
    if due_at < math.inf:
        own_headers[NOT_BEFORE] = round(due_at * MICROSECONDS)
    else:
        own_headers[BLOCKED] = True
        headers = {name: text for name, text in message.headers.items() if name != TRACEBACK}
        message = replace(message, body=b"", content_type=None, headers=headers, properties={})
    return replace(
        message, exchange="", routing_key=waiting_queue, headers={**message.headers, **own_headers}
    )


def _decode_int_header(delivery: Delivery, name: str) -> int:
    """Return the integer in a header; 0 if the header is missing or invalid."""
    value = delivery.headers.get(name)
    return value if type(value) is int and 0 <= value < NUMBER_LIMIT else 0
