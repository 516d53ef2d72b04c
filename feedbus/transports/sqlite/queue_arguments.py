"""The arguments that a queue of the embedded broker can have."""

from __future__ import annotations

from collections.abc import Iterator

from amqp.exceptions import AMQPNotImplementedError, PreconditionFailed

from feedbus.transports.sqlite.equivalence import DECLARE_QUEUE, Arguments

LARGEST = 2**32 - 1
HIGHEST_PRIORITY = 255
# The smallest and the largest value of arguments that are numbers.
LIMITS = {
    "x-message-ttl": (0, LARGEST),
    "x-expires": (1, LARGEST),
    "x-max-length": (0, LARGEST),
    "x-max-priority": (0, HIGHEST_PRIORITY),
    "x-delivery-limit": (0, LARGEST),
}
# The values of arguments that are texts; the first one is the default.
CHOICES = {
    "x-queue-type": ("classic", "quorum"),
    "x-overflow": ("drop-head", "reject-publish", "reject-publish-dlx"),
}
NOT_IMPLEMENTED = ("x-max-length-bytes",)


def check_arguments(
    object_text: str, arguments: Arguments, *, durable: bool, exclusive: bool
) -> None:
    """Raise an error if an argument of a new queue is invalid or not implemented.

    Args:
        object_text: the queue in the text of the error, such as "queue 'work'".
        arguments: the x-arguments of the declaration.
        durable: whether the queue is declared as durable.
        exclusive: whether the queue is declared as exclusive.

    Raises:
        PreconditionFailed: an argument is invalid.
        AMQPNotImplementedError: RabbitMQ has this argument, but the embedded broker does not.
    """
    for name, problem in _problems(arguments, durable=durable, exclusive=exclusive):
        msg = (
            f"PRECONDITION_FAILED - invalid arg '{name}' for {object_text} in vhost '/': {problem}"
        )
        raise PreconditionFailed(msg, DECLARE_QUEUE)
    for name in NOT_IMPLEMENTED:
        if name in arguments:
            msg = f"NOT_IMPLEMENTED - the embedded broker has no {name} ({object_text})"
            raise AMQPNotImplementedError(msg, DECLARE_QUEUE)


def _problems(arguments: Arguments, *, durable: bool, exclusive: bool) -> Iterator[tuple[str, str]]:
    for name, (smallest, largest) in LIMITS.items():
        value = arguments.get(name, smallest)
        if isinstance(value, bool) or not isinstance(value, int):
            yield name, f"expected an integer, got {value!r}"
        elif not smallest <= value <= largest:
            yield name, f"expected {smallest} to {largest}, got {value}"
    for name, choices in CHOICES.items():
        if arguments.get(name, choices[0]) not in choices:
            yield name, f"expected one of {', '.join(choices)}, got {arguments[name]!r}"
    quorum = arguments.get("x-queue-type") == "quorum"
    if "x-delivery-limit" in arguments and not quorum:
        yield "x-delivery-limit", "expected on a quorum queue only"
    if "x-max-priority" in arguments and quorum:
        yield "x-max-priority", "expected on a classic queue only"
    if quorum and (exclusive or not durable):
        yield "x-queue-type", "a quorum queue is durable and not exclusive"
    yield from _dead_letter_problems(arguments)


def _dead_letter_problems(arguments: Arguments) -> Iterator[tuple[str, str]]:
    for name in ("x-dead-letter-exchange", "x-dead-letter-routing-key"):
        if not isinstance(arguments.get(name, ""), str):
            yield name, f"expected text, got {arguments[name]!r}"
    if "x-dead-letter-routing-key" in arguments and "x-dead-letter-exchange" not in arguments:
        yield "x-dead-letter-routing-key", "expected x-dead-letter-exchange beside it"
