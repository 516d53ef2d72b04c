"""Checks of several values together: options that exclude or need each other, weights, queues."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from feedbus.amounts import write_duration
from feedbus.config.declaration import CONSUMER_TIMEOUT_SECONDS, MOST_BUCKETS
from feedbus.config.draft import RING, Draft
from feedbus.config.external import check_external
from feedbus.config.faults import Fault, nearest
from feedbus.config.names import check_names
from feedbus.config.paths import Path, lookup
from feedbus.config.schedules import check_schedules
from feedbus.topology import (
    HANDLER_TIMEOUT_SECONDS,
    KEEP_HANDLED_SECONDS,
    PEEWEE,
    SQLALCHEMY,
    RetryPolicy,
)
from feedbus.wire.content_types import bare_type, is_known

Found = Iterator[tuple[Path, Fault]]
Options = dict[str, Any]

OPTION_OF_ARGUMENT = {
    "x-queue-type": "type",
    "x-single-active-consumer": "single_active_consumer",
    "x-delivery-limit": "delivery_limit",
    "x-message-ttl": "message_ttl",
    "x-max-length": "max_length",
    "x-overflow": "overflow",
}
FEEDBUS_OWN = {"x-dead-letter-exchange", "x-dead-letter-routing-key"}
NO_ARGUMENTS = {"durable", "exclusive", "auto_delete", "auto-delete", "passive", "nowait"}
CLASSIC_ONLY = {"x-max-priority", "x-queue-mode", "x-queue-master-locator", "x-queue-version"}
QUORUM_ONLY = {
    "x-dead-letter-strategy",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
}
# Whole numbers and their bounds; the broker refuses others, or closes the connection.
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
MOST_ARGUMENTS = 40
EXPECTED_IN_STORE = {
    "url": "sqlite:///FILE or postgresql://…",
    "engine": "the dotted name of an SQLAlchemy engine, such as 'shop.db:engine',",
}
HANDLERS = ("handler", "handlers", "handlers_by_type")
RING_ARGUMENTS = {"hash-header", "hash-property", "alternate-exchange"}


def check(draft: Draft) -> None:
    """Report the problems that only several values together show."""
    for queue, options in draft.queues.items():
        for look in LOOKS:
            for path, fault in look(draft, queue, options):
                draft.report.add(path, fault)
    for path, fault in chain(
        _management(draft),
        _store(draft),
        _buckets(draft),
        _exchange_arguments(draft),
        _content_types(draft),
        check_schedules(draft),
        check_names(draft),
        check_external(draft),
    ):
        draft.report.add(path, fault)


def _exchange(draft: Draft, queue: str, options: Options) -> Found:
    declared = draft.report.document.get("exchanges")
    if options.get("external"):
        return
    if not draft.says(queue, "exchange"):
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


def _handler(draft: Draft, queue: str, options: Options) -> Found:
    said = [option for option in HANDLERS if draft.says(queue, option)]
    if not said:
        yield (
            ("queues", queue, "handler"),
            Fault(expected="a dotted name such as 'package.module:name'"),
        )
    for option in said[1:]:
        message = f"cannot be combined with {said[0]}: a message has one handler"
        expected = f"one of {', '.join(HANDLERS)}"
        yield draft.at(queue, option), Fault(message=message, expected=expected, at_key=True)
    for pattern in options.get("handlers", {}):
        if not _well_formed(pattern):
            expected = "words joined by dots, '*' and '#' standing alone as words"
            yield draft.at(queue, "handlers", pattern), Fault(expected=expected, at_key=True)


def _misfits(draft: Draft, queue: str, options: Options) -> Found:
    del options
    for option, reason in draft.misfits(queue):
        yield draft.at(queue, option), Fault(message=reason, at_key=True)


def _routing_keys(draft: Draft, queue: str, options: Options) -> Found:
    kind = draft.exchange_type(options)
    keys = options.get("routing_keys", ())
    if (
        kind in {"direct", "topic"}
        and not keys
        and (not draft.says(queue, "routing_keys") or "routing_keys" in options)
    ):
        exchange = options["exchange"]
        message = f"nothing reaches this queue: expected routing_keys, as '{exchange}' is {kind}"
        yield (
            draft.at(queue, "routing_keys"),
            Fault(message=message, expected="an array of texts, at least one"),
        )
    for index, key in enumerate(keys if kind in {"direct", "topic"} else ()):
        path = draft.at(queue, "routing_keys", index)
        if key in keys[:index]:
            yield path, Fault(message=f"'{key}' is named twice", expected="each routing key once")
        elif kind == "topic" and not _well_formed(key):
            yield path, Fault(expected="words joined by dots, '*' and '#' standing alone as words")


def _well_formed(pattern: str) -> bool:
    words = pattern.split(".")
    return not pattern or all(
        word and (word in "*#" or not set(word) & set("*#")) for word in words
    )


def _weights(draft: Draft, queue: str, options: Options) -> Found:
    weights = options.get("weights")
    if not weights or draft.exchange_type(options) != RING:
        return
    shards = options.get("shards")
    if shards is None:
        if not draft.says(queue, "shards"):
            message = "names shards, but the queue has none: expected weight, or shards beside it"
            yield draft.at(queue, "weights"), Fault(message=message, at_key=True)
        return
    for number in weights:
        if number.isdecimal() and int(number) >= shards:
            expected = f"the number of a shard from 0 to {shards - 1}"
            yield (
                draft.at(queue, "weights", number),
                Fault(expected=expected, got=number, at_key=True),
            )
    if draft.report.has(("queues", queue, "weight")) and set(weights) == set(
        map(str, range(shards))
    ):
        message = "has no effect: weights names every shard"
        yield draft.at(queue, "weight"), Fault(message=message, at_key=True)


def _retry(draft: Draft, queue: str, options: Options) -> Found:
    del options
    # As written, not as loaded: a policy with a wrong delay may lack its end besides.
    path = draft.at(queue, "retry")
    retry = lookup(draft.report.document, path)
    endless = retry.get("repeat", False) if isinstance(retry, dict) else None
    if endless is True and "then" in retry:
        message = "has no effect: the last delay repeats without end (repeat = true)"
        yield (*path, "then"), Fault(message=message, at_key=True)
    if endless is False and "then" not in retry:
        expected = "'dead-letter' or 'drop' after the last delay, or repeat = true"
        yield (*path, "then"), Fault(expected=expected)


def _overflow(draft: Draft, queue: str, options: Options) -> Found:
    arguments = options.get("arguments", {})
    bounded = options.get("max_length") or "x-max-length-bytes" in arguments
    written = draft.says(queue, "max_length") and "max_length" not in options
    if "overflow" in options and not bounded and not written:
        message = "has no effect without max_length: the queue cannot overflow"
        yield (
            draft.at(queue, "overflow"),
            Fault(message=message, expected="max_length beside it", at_key=True),
        )


def _stream(draft: Draft, queue: str, options: Options) -> Found:
    if options.get("stream") and options.get("once"):
        message = "cannot be combined with once: without a transaction nothing commits together"
        yield (
            draft.at(queue, "stream"),
            Fault(message=message, expected="either once or stream", at_key=True),
        )


def _once(draft: Draft, queue: str, options: Options) -> Found:
    if options.get("once") and not draft.report.has(("store",)):
        message = "needs a store: without one nothing keeps which messages were handled"
        expected = '[store] beside it, such as url = "sqlite:///var/store.db"'
        yield (
            draft.at(queue, "once"),
            Fault(message=f"{message}; expected {expected}", expected=expected, at_key=True),
        )
    if options.get("once") and not options.get("store", True):
        message = "cannot be combined with once: the store keeps which messages were handled"
        expected = "either once or store = false"
        fault = Fault(message=message, expected=expected, at_key=True)
        yield draft.at(queue, "store"), fault
    store = draft.loaded.get("store", {})
    kept = store.get("keep_handled_seconds", KEEP_HANDLED_SECONDS)
    returns = sum(options.get("retry", {}).get("delays_seconds", RetryPolicy().delays_seconds))
    returns += options.get("dead_letters", {}).get("max_age_seconds") or 0.0
    if options.get("once") and draft.report.has(("store",)) and kept <= returns:
        message = f"messages of '{queue}' may be delivered again after {write_duration(returns)}"
        expected = f"more than its retry delays and its dead letters' max_age ({message})"
        path = ("store", "keep_handled")
        if draft.report.has(path):
            yield path, Fault(expected=expected)
        else:
            message = f"{message}: expected a longer keep_handled in [store]"
            yield draft.at(queue, "once"), Fault(message=message, expected=expected, at_key=True)


def _wait(draft: Draft, queue: str, options: Options) -> Found:
    batch = options.get("batch", {})
    if batch.get("wait_seconds") and not draft.report.has(draft.at(queue, "batch", "size")):
        message = "has no effect for one record at a time: expected size beside it"
        yield (
            draft.at(queue, "batch", "wait"),
            Fault(message=message, expected="size beside it", at_key=True),
        )


def _concurrency(draft: Draft, queue: str, options: Options) -> Found:
    concurrency = options.get("concurrency", 1)
    if options.get("prefetch", concurrency) < concurrency:
        message = f"{concurrency} records at once need as many messages that were delivered"
        expected = f"at least concurrency ({concurrency}): {message}"
        yield draft.at(queue, "prefetch"), Fault(expected=expected, got=str(options["prefetch"]))
    size = options.get("batch", {}).get("size", 1)
    if concurrency > 1 and size > 1:
        message = (
            "cannot be combined with batch.size: a batch is handled by one call after the other"
        )
        expected = "either concurrency or a batch; more processes or shards handle more batches"
        yield (
            draft.at(queue, "concurrency"),
            Fault(message=message, expected=expected, at_key=True),
        )


def _order_by(draft: Draft, queue: str, options: Options) -> Found:
    if options.get("order_by") and options.get("single_active_consumer") is False:
        message = "cannot be false beside order_by: two processes would handle records of one key"
        expected = "true, or order_by = false"
        yield draft.at(queue, "single_active_consumer"), Fault(message=message, expected=expected)


def _timeouts(draft: Draft, queue: str, options: Options) -> Found:
    wait = options.get("batch", {}).get("wait_seconds", 0.0)
    idle = options.get("idle_timeout_seconds")
    if idle is not None and wait >= idle:
        expected = f"less than idle_timeout ({write_duration(idle)})"
        yield draft.at(queue, "batch", "wait"), Fault(expected=expected)
    most = consumer_timeout_of(draft.loaded.get("broker", {}))
    if options.get("handler_timeout_seconds", HANDLER_TIMEOUT_SECONDS) >= most:
        message = "the broker would deliver the message again while its handler works"
        expected = f"less than consumer_timeout in [broker] ({write_duration(most)})"
        path = draft.at(queue, "handler_timeout")
        if not draft.says(queue, "handler_timeout"):
            path = ("broker", "consumer_timeout")
            longest = write_duration(HANDLER_TIMEOUT_SECONDS)
            expected = f"more than the handler_timeout of '{queue}' ({longest})"
        yield path, Fault(message=message, expected=expected)


def _arguments(draft: Draft, queue: str, options: Options) -> Found:
    kind = draft.queue_type(queue)
    for name in options.get("arguments", {}):
        if name in OPTION_OF_ARGUMENT:
            reason = f"is set by feedbus itself: expected {OPTION_OF_ARGUMENT[name]} of the queue"
        elif name in FEEDBUS_OWN:
            reason = "is set by feedbus itself: dead letters go to a queue of their own"
        elif name in NO_ARGUMENTS:
            reason = (
                "is not an argument: queues of feedbus are always durable, shared and permanent"
            )
        elif kind == "quorum" and name in CLASSIC_ONLY:
            reason = 'a quorum queue does not have it: expected type = "classic"'
        elif kind == "classic" and name in QUORUM_ONLY:
            reason = 'a classic queue does not have it: expected type = "quorum"'
        else:
            continue
        yield draft.at(queue, "arguments", name), Fault(message=reason, at_key=True)
    yield from _argument_values(draft, queue, options)


def _argument_values(draft: Draft, queue: str, options: Options) -> Found:
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


LOOKS: tuple[Callable[[Draft, str, Options], Found], ...] = (
    _exchange,
    _handler,
    _misfits,
    _routing_keys,
    _weights,
    _retry,
    _overflow,
    _stream,
    _once,
    _wait,
    _concurrency,
    _order_by,
    _timeouts,
    _arguments,
)


def _management(draft: Draft) -> Found:
    """Find a management URL without TLS, if the password is that of a broker with TLS."""
    broker = draft.loaded.get("broker", {})
    url, management = broker.get("url"), broker.get("management")
    encrypted = url is not None and any(node.tls for node in url.nodes)
    if encrypted and management is not None and management.clear_text_to_others():
        expected = "https://, as url is amqps://: the password would travel unencrypted"
        yield ("broker", "management"), Fault(expected=expected, got="'http://…'")


def _store(draft: Draft) -> Found:
    """Find options that a store's adapter needs and does not have, or cannot use."""
    store = draft.loaded.get("store", {})
    if not draft.report.has(("store",)) or not isinstance(store, dict):
        return
    adapter = store.get("adapter", PEEWEE)
    if "adapter" not in store and draft.report.has(("store", "adapter")):
        return  # reported already
    needed = {PEEWEE: "url", SQLALCHEMY: "engine"}
    for owner, option in needed.items():
        said = draft.report.has(("store", option))
        if adapter == owner and not said:
            beside = "" if adapter == PEEWEE else f' beside adapter = "{adapter}"'
            yield ("store", option), Fault(expected=f"{EXPECTED_IN_STORE[option]}{beside}")
        elif said and adapter in needed and adapter != owner:
            message = f"has no effect with {adapter}: expected {needed[adapter]} instead"
            yield ("store", option), Fault(message=message, at_key=True)
    if adapter not in needed and draft.report.has(("store", "engine")):
        message = f"has no effect with {adapter}: only sqlalchemy has an engine"
        yield ("store", "engine"), Fault(message=message, at_key=True)


def _buckets(draft: Draft) -> Found:
    """Find the queue with which a ring exceeds the largest number of buckets."""
    buckets: dict[str, int] = {}
    for queue, options in draft.queues.items():
        if draft.exchange_type(options) != RING:
            continue
        exchange = options["exchange"]
        before = buckets.get(exchange, 0)
        buckets[exchange] = before + sum(weights_of(options))
        if before <= MOST_BUCKETS < buckets[exchange]:
            option = next(
                name for name in ("weight", "weights", "shards", "exchange") if name in options
            )
            expected = f"at most {MOST_BUCKETS:,} buckets in the ring of '{exchange}'"
            yield (
                draft.at(queue, option),
                Fault(expected=expected, got=f"{buckets[exchange]:,}"),
            )


def weights_of(options: Options) -> tuple[int, ...]:
    """Return the weight of each shard, or of the only queue."""
    weight = options.get("weight", 1)
    single = options.get("weights", {})
    return tuple(single.get(str(shard), weight) for shard in range(options.get("shards", 1)))


def consumer_timeout_of(broker: Options) -> float:
    """Return the broker's limit for acknowledgements; None for the embedded broker."""
    url = broker.get("url")
    if url is None or url.embedded:
        return math.inf
    given: float = broker.get("consumer_timeout_seconds", CONSUMER_TIMEOUT_SECONDS)
    return given


def _exchange_arguments(draft: Draft) -> Found:
    for name, exchange in draft.loaded.get("exchanges", {}).items():
        for argument in exchange.get("arguments", {}):
            if exchange.get("type") == RING and argument in RING_ARGUMENTS:
                message = "is set by feedbus itself: a ring places by routing key and loses nothing"
                yield (
                    ("exchanges", name, "arguments", argument),
                    Fault(message=message, at_key=True),
                )


def _content_types(draft: Draft) -> Found:
    """Find exchanges whose content type has no codec, or cannot have one."""
    named = {bare_type(kind) for kind in draft.loaded.get("codecs", {})}
    for name, exchange in draft.loaded.get("exchanges", {}).items():
        kind = exchange.get("content_type")
        path = ("exchanges", name, "content_type")
        if kind is None:
            continue
        if exchange.get("pack", 0) > 1:
            message = "cannot be combined with pack: a pack is JSON"
            yield path, Fault(message=message, expected="either pack or content_type", at_key=True)
        if bare_type(kind) not in named and not is_known(kind):
            expected = f"text/plain, application/octet-stream, or a codec for '{bare_type(kind)}'"
            yield path, Fault(expected=f"{expected} in [codecs]", suggestion=nearest(kind, named))
