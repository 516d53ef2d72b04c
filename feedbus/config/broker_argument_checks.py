"""Checks of the option `arguments`: the broker's own arguments of a queue or an exchange.

Each check yields faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from feedbus.config.draft import RING, Draft, Faults, Options
from feedbus.config.problems import Fault

# Maps arguments that feedbus sets itself to options of the queue. The file must set the option
# instead of the argument.
OPTION_OF_ARGUMENT = {
    "x-queue-type": "type",
    "x-single-active-consumer": "single_active_consumer",
    "x-delivery-limit": "delivery_limit",
    "x-message-ttl": "message_ttl",
    "x-max-length": "max_length",
    "x-overflow": "overflow",
}
# Arguments that feedbus sets itself, for the queue of dead letters.
FEEDBUS_OWN = {"x-dead-letter-exchange", "x-dead-letter-routing-key"}
# Parameters of queue.declare in AMQP that are not arguments; feedbus chooses their values.
NO_ARGUMENTS = {"durable", "exclusive", "auto_delete", "auto-delete", "passive", "nowait"}
CLASSIC_ONLY = {"x-max-priority", "x-queue-mode", "x-queue-master-locator", "x-queue-version"}
QUORUM_ONLY = {
    "x-dead-letter-strategy",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
}
# The arguments that are whole numbers, with their bounds. The broker refuses other values, or
# closes the connection.
INTEGER_ARGUMENTS = {
    "x-expires": (1, 2**32 - 1),
    "x-max-length-bytes": (0, 2**63 - 1),
    "x-max-priority": (1, 255),
    "x-max-in-memory-length": (0, 2**63 - 1),
    "x-max-in-memory-bytes": (0, 2**63 - 1),
    "x-quorum-initial-group-size": (1, 2**31 - 1),
    "x-quorum-target-group-size": (1, 2**31 - 1),
    "x-queue-version": (1, 2),
    "x-consumer-timeout": (1, 2**63 - 1),
}
MOST_ARGUMENTS = 40  # the largest number of arguments of a queue
# Arguments that feedbus sets itself on the exchanges of a ring.
RING_ARGUMENTS = {"hash-header", "hash-property", "alternate-exchange"}


def check_arguments(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault for each argument of a queue that the broker or feedbus does not accept.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of each wrong argument in topology.toml, with its fault: what is wrong.

    """
    kind = draft.queue_type(queue)
    for name in options.get("arguments", {}):
        if name in OPTION_OF_ARGUMENT:
            reason = (
                f"is set by feedbus itself: remove it, and set {OPTION_OF_ARGUMENT[name]} of the"
                " queue instead"
            )
        elif name in FEEDBUS_OWN:
            reason = "is set by feedbus itself, for the dead-letter queue: remove it"
        elif name in NO_ARGUMENTS:
            reason = (
                "cannot be set: queues of feedbus are always durable and permanent, never exclusive"
            )
        elif kind == "quorum" and name in CLASSIC_ONLY:
            reason = 'is not an argument of quorum queues: remove it, or set type = "classic"'
        elif kind == "classic" and name in QUORUM_ONLY:
            reason = 'is not an argument of classic queues: remove it, or set type = "quorum"'
        else:
            continue
        yield draft.at(queue, "arguments", name), Fault(message=reason, at_key=True)
    yield from _argument_values(draft, queue, options)


def _argument_values(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault for too many arguments, and for each wrong value of an integer argument."""
    arguments = options.get("arguments", {})
    if len(arguments) > MOST_ARGUMENTS:
        expected = f"at most {MOST_ARGUMENTS} arguments"
        yield draft.at(queue, "arguments"), Fault(expected=expected, got=str(len(arguments)))
    for name in INTEGER_ARGUMENTS.keys() & arguments:
        value = arguments[name]
        least, most = INTEGER_ARGUMENTS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            expected = f"an integer from {least} to {most}"
            yield draft.at(queue, "arguments", name), Fault(expected=expected)


def check_exchange_arguments(draft: Draft) -> Faults:
    """Yield a fault for each argument of an exchange that only feedbus itself may set.

    Only exchanges with a ring have such arguments.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each such argument in topology.toml, with its fault: what is wrong.

    """
    for name, exchange in draft.loaded.get("exchanges", {}).items():
        for argument in exchange.get("arguments", {}):
            if exchange.get("type") == RING and argument in RING_ARGUMENTS:
                message = f"cannot be set on an exchange of type {RING}: feedbus sets it itself"
                yield (
                    ("exchanges", name, "arguments", argument),
                    Fault(message=message, at_key=True),
                )
