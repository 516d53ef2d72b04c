"""Match the headers of a message with the bindings of a headers exchange, as RabbitMQ does."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

# x-match selects two things: whether all headers of a binding must match, or at least one of them;
# and whether the headers whose names begin with "x-" are compared.
X_MATCH = "x-match"
ALL, ANY, ALL_WITH_X, ANY_WITH_X = "all", "any", "all-with-x", "any-with-x"


def x_match_problem(arguments: Mapping[str, Any]) -> str:
    """Return what is wrong with the argument x-match of a binding, as RabbitMQ words it.

    Returns:
        "" if the argument is valid or missing.
    """
    value = arguments.get(X_MATCH, ALL)
    if not isinstance(value, str):
        return f"Invalid x-match field type {type(value).__name__}; expected longstr"
    if value not in {ALL, ANY, ALL_WITH_X, ANY_WITH_X}:
        return (
            f"Invalid x-match field value '{value}'; expected all, any, all-with-x, or any-with-x"
        )
    return ""


class HeaderMatcher:
    """The headers that one binding of a headers exchange expects.

    Args:
        arguments: the arguments of the binding: x-match and the expected headers. If the expected
            value is None, the header only has to exist.
    """

    __slots__ = ("_combine", "_expected")

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        """Create the object from the arguments of a binding."""
        mode = arguments.get(X_MATCH, ALL)
        self._combine = any if mode in {ANY, ANY_WITH_X} else all
        with_x = mode in {ALL_WITH_X, ANY_WITH_X}
        self._expected = [
            (name, None if value is None else _comparable(value))
            for name, value in arguments.items()
            if name != X_MATCH and (with_x or not name.startswith("x-"))
        ]

    def matches(self, headers: Mapping[str, Any]) -> bool:
        """Return whether a message with these headers matches the binding."""
        return self._combine(
            name in headers and (expected is None or expected == _comparable(headers[name]))
            for name, expected in self._expected
        )


def _comparable(value: Any) -> tuple[type, Any]:
    """Return a value with its type, so that 1, True and 1.0 differ.

    A text is equal to its bytes, because py-amqp writes both with the same AMQP type. Times are
    compared by their seconds, as on RabbitMQ.
    """
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    elif isinstance(value, datetime):
        value = int(value.replace(tzinfo=UTC).timestamp())
    elif isinstance(value, Decimal):
        value = value.as_tuple()  # 1.5 and 1.50 differ
    elif isinstance(value, list):
        value = [_comparable(each) for each in value]
    elif isinstance(value, dict):
        value = {name: _comparable(each) for name, each in value.items()}
    return type(value), value
