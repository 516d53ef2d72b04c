"""Check that a declaration equals the existing object, with the error texts of RabbitMQ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.exceptions import PreconditionFailed

# The AMQP methods that can fail: class id and method id.
DECLARE_EXCHANGE, DECLARE_QUEUE = (40, 10), (50, 10)

Arguments = Mapping[str, Any]


def check_same(object_text: str, name: str, received: bool | str, current: bool | str) -> None:  # noqa: FBT001 -- only compared
    """Raise PreconditionFailed if a declared property differs from that of the existing object.

    Args:
        object_text: kind and name of the object, such as "queue 'work'".
        name: the property, such as "durable".
        received: the value in the declaration.
        current: the value of the existing object.
    """
    if received != current:
        msg = (
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {object_text} in vhost '/':"
            f" received '{_text(received)}' but current is '{_text(current)}'"
        )
        raise PreconditionFailed(
            msg, DECLARE_EXCHANGE if "exchange" in object_text else DECLARE_QUEUE
        )


def check_same_argument(
    object_text: str, name: str, received: Arguments, current: Arguments, method: tuple[int, int]
) -> None:
    """Raise PreconditionFailed if a declared argument differs from that of the existing object.

    Args:
        object_text: kind and name of the object, such as "queue 'work'".
        name: the argument, such as "x-expires".
        received: all arguments of the declaration.
        current: all arguments of the existing object.
        method: the ids of the AMQP method for the error: DECLARE_EXCHANGE or DECLARE_QUEUE.
    """
    if received.get(name) != current.get(name):
        msg = (
            f"PRECONDITION_FAILED - inequivalent arg '{name}' for {object_text} in vhost '/':"
            f" received {_written(received, name)} but current is {_written(current, name)}"
        )
        raise PreconditionFailed(msg, method)


def _written(arguments: Arguments, name: str) -> str:
    if name not in arguments:
        return "none"
    value = arguments[name]
    kind = {bool: "bool", int: "signedint", str: "longstr"}.get(type(value), type(value).__name__)
    return f"the value '{_text(value)}' of type '{kind}'"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
