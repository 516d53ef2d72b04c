"""The messages in waiting queues: write the message of a waiting record, and read it.

The message of a waiting record is its retry, with three additional headers: its position, when it
is due, and the ordering key, unless this is the routing key. The message of a dead letter that
blocks its key (`block_on_dead`) has a header for that, and no body. The dead letter itself is in
the queue of dead letters.
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
MAX_POSITION = 2**62  # a header with a higher number is ignored


def decode_waiting_message(
    arrival: Arrival, order: Order, waiting_queue: str, generation_number: int
) -> WaitingRecord:
    """Return the record of a delivery; its position is 0 if the message contains no position.

    Args:
        arrival: the delivery.
        order: determines where the message has its key.
        waiting_queue: the waiting queue that delivered it.
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

    Args:
        record: the waiting record, or the dead letter.
        due_at: when the record may run, in seconds since 1970; infinity for a dead letter.
        order: determines whether the message needs a header with the key.
        waiting_queue: the queue that the message is sent to.
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
    value = delivery.headers.get(name)
    return value if type(value) is int and 0 <= value < MAX_POSITION else 0
