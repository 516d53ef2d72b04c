"""Checks of shards, weights and the buckets of a ring.

The ring of an x-consistent-hash exchange has buckets, and each bucket belongs to one shard. The
hash of a routing key selects a bucket. The weight of a shard is its number of buckets.

The checks yield faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from feedbus.config.draft import RING, Draft, Faults, Options
from feedbus.config.problems import Fault
from feedbus.topology import MAX_BUCKETS


def check_weights(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault for each weight that has no effect, or is of a shard that does not exist.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of each such weight in topology.toml, with its fault: what is wrong.

    """
    weights = options.get("weights")
    if not weights or draft.exchange_type(options) != RING:
        return
    shards = options.get("shards")
    if shards is None:
        if not draft.is_set(queue, "shards"):
            message = "has no effect without shards: set shards, or set weight instead"
            yield draft.at(queue, "weights"), Fault(message=message, at_key=True)
        return
    for number in weights:
        if number.isdecimal() and int(number) >= shards:
            expected = f"the number of a shard from 0 to {shards - 1}"
            yield (
                draft.at(queue, "weights", number),
                Fault(expected=expected, got=number, at_key=True),
            )
    # A weight that is inherited from [defaults.queue] is no fault: other queues may use it.
    if draft.report.has(("queues", queue, "weight")) and set(weights) == set(
        map(str, range(shards))
    ):
        message = "has no effect: weights names every shard"
        yield draft.at(queue, "weight"), Fault(message=message, at_key=True)


def check_buckets(draft: Draft) -> Faults:
    """Yield a fault for each ring whose weights have a sum above MAX_BUCKETS.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        A path in topology.toml with the fault. The weights are added queue by queue, in the order
        of the file. The path is in the queue with which the sum exceeds the limit.

    """
    buckets: dict[str, int] = {}
    for queue, options in draft.queues.items():
        if draft.exchange_type(options) != RING:
            continue
        exchange = options["exchange"]
        before = buckets.get(exchange, 0)
        buckets[exchange] = before + sum(weights_of(options))
        if before <= MAX_BUCKETS < buckets[exchange]:
            option = next(
                name for name in ("weight", "weights", "shards", "exchange") if name in options
            )
            expected = f"at most {MAX_BUCKETS:,} buckets in the ring of '{exchange}'"
            yield (
                draft.at(queue, option),
                Fault(expected=expected, got=f"{buckets[exchange]:,}"),
            )


def weights_of(options: Options) -> tuple[int, ...]:
    """Return the weight of each shard of a queue, in the order of the shards.

    Args:
        options: the loaded options of the queue. A queue without shards has one weight.

    """
    weight = options.get("weight", 1)
    single = options.get("weights", {})
    return tuple(single.get(str(shard), weight) for shard in range(options.get("shards", 1)))
