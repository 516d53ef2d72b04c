"""Zeros before the weights of a ring, so that a restarted RabbitMQ keeps the order of the queues.

When RabbitMQ starts, it may build a ring again from the bindings of the ring. RabbitMQ then sorts
the bindings, byte by byte: by the binding key, which is the weight as text, then by the name of the
queue. So a queue with the weight "10" comes before a queue with the weight "9". If feedbus had
bound the queues in another order, most keys would move to other queues. RabbitMQ reads a weight
with leading zeros as the same number, but sorts it before weights without them. So zeros are put
before some weights, until the sorted order is the order in which feedbus binds the queues.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedbus.errors import UsageError

MAX_ZEROS = 240  # a binding key of AMQP has at most 255 bytes


def weight_keys(members: Sequence[tuple[str, int]]) -> list[str]:
    """Return the binding key of each queue of a ring: its weight with leading zeros.

    RabbitMQ ignores the zeros when it reads the weight. But it sorts the bindings by their keys, as
    texts, when it starts and builds the ring again. With the zeros, the order stays the same.

    Args:
        members: (name of the queue on the broker, weight), in the order of the bindings.

    Raises:
        UsageError: too many queues are bound before a queue that RabbitMQ would sort before them,
            so the keys would be longer than AMQP allows.

    """
    keys: list[str] = []
    zeros, previous = 0, None
    for name, weight in reversed(members):
        sort_key = _sorted_as(zeros, weight, name)
        if previous is not None and sort_key >= previous:
            zeros += 1
            sort_key = _sorted_as(zeros, weight, name)
        previous = sort_key
        keys.append("0" * zeros + str(weight))
    if zeros > MAX_ZEROS:
        msg = (
            f"a ring of {len(members)} queues: expected weights that become smaller from one queue"
            f" to the next at most {MAX_ZEROS} times, got {zeros} times; give more neighbouring"
            " queues the same weight"
        )
        raise UsageError(msg)
    return keys[::-1]


def _sorted_as(zeros: int, weight: int, name: str) -> tuple[bytes, bytes]:
    """Return what RabbitMQ compares when it sorts bindings: the binding key, then the queue's name.

    The binding key is the weight with `zeros` zeros before it.
    """
    return b"0" * zeros + str(weight).encode(), name.encode()
