"""Tell what a broker has otherwise than the topology, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from amqp.exceptions import InvalidCommand, PreconditionFailed

from feedbus.errors import UsageError

# inequivalent arg 'x-max-length' for queue 'a.b' in vhost '/': received none but current is
# the value '5' of type 'long'
INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>queue|exchange) '(?P<name>[^']+)'"
    r"(?: in vhost '.*')?:\s+received (?P<wanted>.+?) but current is (?P<got>.+)",
    re.DOTALL,
)
VALUE = re.compile(r"(?:the value )?'(?P<value>.*?)'(?: of type '.*')?", re.DOTALL)
HASH_PLUGIN = "rabbitmq_consistent_hash_exchange"

# What topology.toml calls these arguments.
OPTIONS = {
    "x-queue-type": "type",
    "x-single-active-consumer": "single_active_consumer",
    "x-delivery-limit": "delivery_limit",
    "x-message-ttl": "message_ttl, or the delays of retry",
    "x-max-length": "max_length",
    "x-overflow": "overflow",
    "type": "type",
}


@contextmanager
def told_apart(name: str) -> Iterator[None]:
    """Tell why an entity cannot be declared, instead of the broker's 406 or 503.

    Raises:
        UsageError: it exists with other arguments, or the broker does not know what it is.

    """
    try:
        yield
    except PreconditionFailed as error:
        raise UsageError(_refusal(name, error)) from error
    except InvalidCommand as error:
        msg = f"the broker refuses {name}: {error.reply_text}"
        if "exchange type" in str(error.reply_text) and "x-consistent-hash" in msg:
            msg += f"; enable its plugin on every node: rabbitmq-plugins enable {HASH_PLUGIN}"
        raise UsageError(msg) from error


def differs_in(error: BaseException | None) -> str:
    """Return the argument that a 406 is about, "" where it is about none."""
    found = INEQUIVALENT.search(str(getattr(error, "reply_text", "")))
    return found["argument"] if found else ""


def _refusal(name: str, error: PreconditionFailed) -> str:
    found = INEQUIVALENT.search(str(error.reply_text))
    if found is None:
        return f"the broker refuses {name}: {error.reply_text}; change the topology's arguments"
    argument, kind, named = found["argument"], found["kind"], found["name"]
    wanted, got = (_value(argument, found[side]) for side in ("wanted", "got"))
    remedy = (
        f"empty and delete the queue (rabbitmqctl delete_queue {named})"
        if kind == "queue"
        else "delete the exchange"
    )
    return (
        f"{kind} {named}: expected {argument} = {wanted}, got {got} on the broker; change"
        f" {OPTIONS.get(argument, 'arguments')} in the topology to what is there, or {remedy}"
        " and run this again"
    )


def _value(argument: str, text: str) -> str:
    found = VALUE.fullmatch(text.strip())
    if found is None and argument == "x-queue-type":
        return "classic"
    return found["value"] if found else text.strip()
