"""Differences between a declaration and the object on the broker, and how to correct them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import InvalidCommand, PreconditionFailed

from feedbus.errors import UsageError

# Example of an error of RabbitMQ that this pattern matches:
# inequivalent arg 'x-max-length' for queue 'a.b' in vhost '/': received none but current is
# the value '5' of type 'long'
INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>queue|exchange) '(?P<name>[^']+)'"
    r"(?: in vhost '.*')?:\s+received (?P<wanted>.+?) but current is (?P<got>.+)",
    re.DOTALL,
)
VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '.*')?", re.DOTALL)
# The plugin that provides each exchange type. For an unknown exchange type, RabbitMQ 3.x closes the
# channel with the error 503, and RabbitMQ 4.x with 406.
PLUGINS = {"x-consistent-hash": "rabbitmq_consistent_hash_exchange"}
UNKNOWN_TYPE = re.compile(r"(?:unknown|invalid) exchange type '(?P<type>[^']+)'")
# For each argument, the value that means the same as a missing argument. If a queue was declared
# without a type, RabbitMQ 4.x reports "classic", and RabbitMQ 3.x reports no type.
DEFAULTS = {"x-queue-type": "classic"}
NOT_SET = "not set"  # the text for a missing argument

# The options in topology.toml that set these arguments.
OPTIONS = {
    "x-queue-type": "type",
    "x-single-active-consumer": "single_active_consumer or order_by",
    "x-message-ttl": "message_ttl or retry",
    "x-max-length": "max_length",
    "x-overflow": "overflow",
}


def find_differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the different arguments: each name is mapped to the values (found, wanted).

    None stands for a missing argument. A missing x-queue-type counts as "classic", its default.

    Args:
        found: the arguments of the exchange or queue on the broker.
        wanted: the arguments with which feedbus declares it.
    """
    values = {
        name: tuple(side.get(name, DEFAULTS.get(name)) for side in (found, wanted))
        for name in sorted({*found, *wanted})
    }
    return {name: (old, new) for name, (old, new) in values.items() if old != new}


def differences_text(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return the different arguments as text: "x-max-length: 5 -> not set"."""
    return ", ".join(
        f"{name}: {value_text(old)} -> {value_text(new)}"
        for name, (old, new) in find_differences(found, wanted).items()
    )


def value_text(value: object) -> str:
    """Return the value of an argument, as it would be in TOML, or "not set" if it is missing.

    A text has no quotation marks, unless it is empty.
    """
    if value is None:
        return NOT_SET
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


@contextmanager
def explain_refusal(name: str, *, replaceable: bool = False) -> Iterator[None]:
    """Raise UsageError if the broker refuses a declaration (error 406 or 503) in a `with` block.

    Args:
        name: the name of the declared exchange or queue, for the text of the error.
        replaceable: whether `feedbus apply` can replace the existing object; the text of the error
            depends on it.

    Raises:
        UsageError: the object exists with other arguments, or the broker does not know its type.
    """
    try:
        yield
    except (InvalidCommand, PreconditionFailed) as error:
        raise UsageError(_refusal(name, str(error.reply_text), replaceable)) from error


def refused_argument(error: BaseException | None) -> str:
    """Return the argument because of which the broker has refused a declaration.

    Args:
        error: the error of the declaration. The broker's error 406 can name the argument; for any
            other error, and for None, the result is "".
    """
    match = INEQUIVALENT.search(str(getattr(error, "reply_text", "")))
    return match["argument"] if match else ""


def value_on_broker(error: BaseException | None) -> str:
    """Return the value that the argument of refused_argument() has on the broker.

    The value is "not set" if the existing exchange or queue does not have the argument.

    Args:
        error: the error of the declaration. The broker's error 406 can name the argument and its
            value; for any other error, and for None, the result is "".
    """
    match = INEQUIVALENT.search(str(getattr(error, "reply_text", "")))
    return _value(match["argument"], match["got"]) if match else ""


def _refusal(name: str, reply: str, replaceable: bool) -> str:  # noqa: FBT001 -- of explain_refusal
    unknown = UNKNOWN_TYPE.search(reply)
    if unknown is not None:
        return f"the broker refuses {name}: {reply}; {_type_remedy(unknown['type'])}"
    match = INEQUIVALENT.search(reply)
    if match is None:
        return f"the broker refuses {name}: {reply}; change the topology's arguments"
    argument, kind, named = match["argument"], match["kind"], match["name"]
    wanted, got = (_value(argument, match[side]) for side in ("wanted", "got"))
    by = f" (by {OPTIONS[argument]})" if argument in OPTIONS else ""
    return (
        f"{kind} {named}: {argument} is {got} on the broker, but {wanted} in the topology{by};"
        f" {_replacement(kind, named, replaceable)}"
    )


def _replacement(kind: str, name: str, replaceable: bool) -> str:  # noqa: FBT001 -- of explain_refusal
    """Return what the operator must do if an object exists with other arguments.

    Args:
        kind: "queue" or "exchange".
        name: the name of the object on the broker.
        replaceable: whether `feedbus apply` can replace the object.

    """
    if not replaceable:
        command = f" (on RabbitMQ: rabbitmqctl delete_queue {name})" if kind == "queue" else ""
        return f"`feedbus apply` cannot replace it: delete it{command}, and run the command again"
    if kind == "queue":
        return "run `feedbus apply`, which replaces the queue and moves its messages"
    return "run `feedbus apply`, which deletes the exchange and declares it again"


def _type_remedy(exchange_type: str) -> str:
    if exchange_type in PLUGINS:
        return f"enable its plugin on every node: rabbitmq-plugins enable {PLUGINS[exchange_type]}"
    return "change the type in the topology, or enable the plugin that provides it on every node"


def _value(argument: str, text: str) -> str:
    """Return a value in the broker's error without the broker's quotation marks and type.

    If the broker has no value, the result is the argument's default, or "not set".
    """
    match = VALUE.fullmatch(text.strip())
    if match is not None:
        return value_text(match["value"])
    value = value_text(DEFAULTS.get(argument))
    return value if text.strip() == "none" else text.strip()
