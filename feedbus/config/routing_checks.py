"""Checks of how messages reach a queue and its handlers.

The checks yield faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from feedbus.config.draft import Draft, Faults, Options
from feedbus.config.problems import Fault
from feedbus.name_list import nearest
from feedbus.wire.content_types import bare_type, is_known

HANDLERS = ("handler", "handlers", "handlers_by_type")
PATTERN = "words joined by dots, in which '*' and '#' are words of their own"


def check_exchange(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault if the exchange of the queue is missing or unknown.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of the option in topology.toml, with its fault: what is wrong.

    """
    declared = draft.report.document.get("exchanges")
    if options.get("external"):
        return
    if not draft.is_set(queue, "exchange"):
        yield ("queues", queue, "exchange"), Fault(expected="the name of an exchange")
    elif (
        "exchange" in options and isinstance(declared, dict) and options["exchange"] not in declared
    ):
        name = options["exchange"]
        yield (
            draft.at(queue, "exchange"),
            Fault(
                message=f"no exchange named '{name}'",
                expected=f"one of {', '.join(declared)}"
                if declared
                else "an exchange in [exchanges]",
                suggestion=nearest(name, declared),
            ),
        )


def check_handler(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault if the queue has no handler, several kinds of handlers, or a wrong pattern.

    The keys of the option `handlers` are patterns of routing keys, as on a topic exchange.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of the wrong option in topology.toml, with its fault: what is wrong.

    """
    set_options = [option for option in HANDLERS if draft.is_set(queue, option)]
    if not set_options:
        yield (
            ("queues", queue, "handler"),
            Fault(expected="a dotted name such as 'package.module:name'"),
        )
    for option in set_options[1:]:
        message = f"cannot be combined with {set_options[0]}: a message has one handler"
        expected = f"one of {', '.join(HANDLERS)}"
        yield draft.at(queue, option), Fault(message=message, expected=expected, at_key=True)
    for pattern in options.get("handlers", {}):
        if not _well_formed(pattern):
            yield draft.at(queue, "handlers", pattern), Fault(expected=PATTERN, at_key=True)


def check_misfits(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault for each option that a queue of this kind cannot have.

    For example, a queue without a ring cannot have `shards`.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: not used; all checks of a queue have the same arguments.

    Yields:
        The path of each such option in topology.toml, with its fault: what is wrong.

    """
    del options
    for option, reason in draft.misfits(queue):
        yield draft.at(queue, option), Fault(message=reason, at_key=True)


def check_routing_keys(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault if no message reaches the queue, and for wrong or repeated binding keys.

    If `routing_keys` is set but could not be loaded, nothing is yielded, because its fault is
    reported already.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of each wrong value in topology.toml, with its fault: what is wrong.

    """
    kind = draft.exchange_type(options)
    keys = options.get("routing_keys", ())
    if (
        kind in {"direct", "topic"}
        and not keys
        and not options.get("external", False)
        and (not draft.is_set(queue, "routing_keys") or "routing_keys" in options)
    ):
        exchange = options["exchange"]
        message = (
            f"no message reaches this queue: expected routing_keys, because the exchange"
            f" '{exchange}' is of type {kind}"
        )
        yield (
            draft.at(queue, "routing_keys"),
            Fault(message=message, expected="an array of texts, at least one"),
        )
    for index, key in enumerate(keys if kind in {"direct", "topic"} else ()):
        path = draft.at(queue, "routing_keys", index)
        if key in keys[:index]:
            yield path, Fault(message=f"'{key}' is listed twice", expected="each routing key once")
        elif kind == "topic" and not _well_formed(key):
            yield path, Fault(expected=PATTERN)


def _well_formed(pattern: str) -> bool:
    """Whether a binding key of a topic exchange has no empty word, and no word such as 'a*'."""
    words = pattern.split(".")
    return not pattern or all(
        word and (word in "*#" or not set(word) & set("*#")) for word in words
    )


def check_content_types(draft: Draft) -> Faults:
    """Yield a fault for each `content_type` that has no codec, or that is set together with `pack`.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each such `content_type` in topology.toml, with its fault: what is wrong.

    """
    with_codec = {bare_type(kind) for kind in draft.loaded.get("codecs", {})}
    for name, exchange in draft.loaded.get("exchanges", {}).items():
        kind = exchange.get("content_type")
        path = ("exchanges", name, "content_type")
        if kind is None:
            continue
        if exchange.get("pack", 0) > 1:
            message = "cannot be combined with pack: a pack is JSON"
            yield path, Fault(message=message, expected="either pack or content_type", at_key=True)
        if bare_type(kind) not in with_codec and not is_known(kind):
            expected = f"text/plain, application/octet-stream, or a codec for '{bare_type(kind)}'"
            suggestion = nearest(kind, with_codec)
            yield path, Fault(expected=f"{expected} in [codecs]", suggestion=suggestion)
