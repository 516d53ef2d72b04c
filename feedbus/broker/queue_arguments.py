"""The arguments of the queues that a topology declares, and the keys of their bindings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feedbus.broker_names import Names
from feedbus.topology import NO_DELIVERY_LIMIT, Queue, Topology

# When a quorum queue with these arguments dead-letters a message, the queue keeps the message until
# the next queue has confirmed it.
AT_LEAST_ONCE = {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}


def binding_keys(queue: Queue) -> tuple[str, ...]:
    """Return the binding keys of a queue that is not on a ring; ("",) if it has no routing keys.

    The queue is bound to its exchange once with each binding key. A ring is an exchange of the type
    x-consistent-hash, to which queues are bound with their weights.
    """
    return queue.routing_keys or ("",)


def declared_arguments(names: Names, queue: Queue) -> dict[str, Any]:
    """Return the x-arguments with which a queue of the topology is declared on the broker.

    They contain the dead-letter arguments, the queue type, and the options of the queue, such as
    message_ttl as x-message-ttl. The option `arguments` of the queue overrides them.

    Args:
        names: the names of the topology's objects on the broker.
        queue: the queue.
    """
    arguments: dict[str, Any] = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": names.dead(queue),
        "x-queue-type": queue.type,  # a virtual host can have another default
    }
    if queue.type == "quorum":
        arguments["x-delivery-limit"] = NO_DELIVERY_LIMIT
    if queue.single_active_consumer:
        arguments["x-single-active-consumer"] = True
    if queue.message_ttl_seconds is not None:
        arguments["x-message-ttl"] = round(queue.message_ttl_seconds * 1000)
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    if queue.overflow is not None:
        arguments["x-overflow"] = queue.overflow
    return {**arguments, **queue.arguments}


def needs_quorum(topology: Topology, exchange: str) -> bool:
    """Whether the auxiliary queues of an exchange must be quorum queues.

    They must be quorum queues if at least one queue of the exchange is one. Auxiliary queues are
    the queues that feedbus declares in addition to those of the topology.

    Args:
        topology: the topology.
        exchange: the name of the exchange in topology.toml.
    """
    return any(
        queue.type == "quorum" for queue in topology.queues.values() if queue.exchange == exchange
    )


def may_refuse_retries(queue: Queue) -> bool:
    """Whether a queue can refuse the retries that the broker returns to it from a retry queue.

    A full queue refuses them if its overflow is `reject-publish`. feedbus does not know the
    overflow of an external queue. A queue with `order_by` does not use its retry queues: its
    retries wait in a waiting queue.

    If the result is True, the retry queues must be quorum queues. A quorum queue keeps a refused
    retry, and the broker tries again later. A classic queue loses it.

    Args:
        queue: the queue of the records.
    """
    overflow = queue.arguments.get("x-overflow", queue.overflow)
    return not queue.order_by and (bool(queue.external_name) or overflow == "reject-publish")


def auxiliary_arguments(arguments: Mapping[str, Any], *, quorum: bool) -> dict[str, Any]:
    """Return the arguments of an auxiliary queue, including those that its queue type needs.

    An auxiliary queue is a queue that feedbus declares in addition to those of the topology, such
    as a retry queue.

    Args:
        arguments: the arguments that do not depend on the queue type.
        quorum: True for a quorum queue, False for a classic queue.

    """
    if not quorum:
        return {"x-queue-type": "classic", **arguments}
    result = {"x-queue-type": "quorum", "x-delivery-limit": NO_DELIVERY_LIMIT, **arguments}
    return result | AT_LEAST_ONCE if "x-dead-letter-exchange" in result else result


def retry_queue_arguments(names: Names, queue: Queue, milliseconds: int) -> dict[str, Any]:
    """Return the arguments of a retry queue, in which failed records of a queue wait.

    The arguments of the queue type are not included: auxiliary_arguments() adds them.

    Args:
        names: the names of the topology's objects on the broker.
        queue: the queue of the failed records.
        milliseconds: how long the records wait before the broker returns them to their queue.

    """
    arguments: dict[str, Any] = {"x-message-ttl": milliseconds, "x-dead-letter-exchange": ""}
    if names.topology.on_ring(queue):
        # The entry of the ring. From there, the record reaches the shard that owns its key then.
        arguments["x-dead-letter-exchange"] = names.exchange(queue.exchange)
    else:
        arguments["x-dead-letter-routing-key"] = names.unsharded(queue)
    return arguments
