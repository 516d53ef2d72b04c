"""Checks that compare several values of topology.toml, such as options that exclude each other.

Each check yields faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from feedbus.config.broker_and_store_options import CONSUMER_TIMEOUT_SECONDS
from feedbus.config.broker_argument_checks import check_arguments, check_exchange_arguments
from feedbus.config.draft import Draft, Faults, Options
from feedbus.config.external_checks import check_external
from feedbus.config.key_paths import lookup
from feedbus.config.name_checks import check_names
from feedbus.config.problems import Fault
from feedbus.config.ring_checks import check_buckets, check_weights
from feedbus.config.routing_checks import (
    check_content_types,
    check_exchange,
    check_handler,
    check_misfits,
    check_routing_keys,
)
from feedbus.config.schedule_options import check_schedules
from feedbus.config.store_checks import check_once, check_store
from feedbus.topology import HANDLER_TIMEOUT_SECONDS
from feedbus.units import write_duration


def check(draft: Draft) -> None:
    """Run all checks that compare several values of topology.toml; add the faults to the report.

    config.load() calls the function after each value was checked alone.

    Args:
        draft: the loaded values of topology.toml; its report gets the faults.

    """
    for queue, options in draft.queues.items():
        for queue_check in QUEUE_CHECKS:
            for path, fault in queue_check(draft, queue, options):
                draft.report.add(path, fault)
    for path, fault in chain(
        _management(draft),
        check_store(draft),
        check_buckets(draft),
        check_exchange_arguments(draft),
        check_content_types(draft),
        check_schedules(draft),
        check_names(draft),
        check_external(draft),
    ):
        draft.report.add(path, fault)


def _retry(draft: Draft, queue: str, options: Options) -> Faults:
    del options
    # If the file sets an invalid `then`, the fault is reported already, and the loaded values have
    # no `then`. So the check looks for `then` in the document, which also has invalid values.
    path = draft.at(queue, "retry")
    retry = lookup(draft.report.document, path)
    # If the file has no table `retry`, or an invalid `repeat`, `endless` is neither True nor False.
    # Then the check yields nothing.
    endless = retry.get("repeat", False) if isinstance(retry, dict) else None
    if endless is True and "then" in retry:
        message = "has no effect: the last delay repeats without end (repeat = true)"
        yield (*path, "then"), Fault(message=message, at_key=True)
    if endless is False and "then" not in retry:
        expected = "'dead-letter' or 'drop' after the last delay, or repeat = true"
        yield (*path, "then"), Fault(expected=expected)


def _overflow(draft: Draft, queue: str, options: Options) -> Faults:
    arguments = options.get("arguments", {})
    bounded = options.get("max_length") or "x-max-length-bytes" in arguments
    # The fault of an invalid max_length is reported already. It is not known whether the corrected
    # queue can overflow.
    invalid = draft.is_set(queue, "max_length") and "max_length" not in options
    if "overflow" in options and not bounded and not invalid:
        message = "has no effect without max_length: the queue cannot overflow"
        yield (
            draft.at(queue, "overflow"),
            Fault(message=message, expected="max_length as well", at_key=True),
        )


def _stream(draft: Draft, queue: str, options: Options) -> Faults:
    if options.get("stream") and options.get("once"):
        message = "cannot be combined with once: a stream has no transaction of the store"
        yield (
            draft.at(queue, "stream"),
            Fault(message=message, expected="either once or stream", at_key=True),
        )


def _wait(draft: Draft, queue: str, options: Options) -> Faults:
    batch = options.get("batch", {})
    # has() is also True for an invalid size, whose fault is reported already.
    if batch.get("wait_seconds") and not draft.report.has(draft.at(queue, "batch", "size")):
        message = "has no effect without size: each batch then has one record"
        yield (
            draft.at(queue, "batch", "wait"),
            Fault(message=message, expected="size as well", at_key=True),
        )


def _concurrency(draft: Draft, queue: str, options: Options) -> Faults:
    concurrency = options.get("concurrency", 1)
    if options.get("prefetch", concurrency) < concurrency:
        message = "the process handles that many messages at the same time"
        expected = f"at least concurrency ({concurrency}), because {message}"
        yield draft.at(queue, "prefetch"), Fault(expected=expected, got=str(options["prefetch"]))
    size = options.get("batch", {}).get("size", 1)
    if concurrency > 1 and size > 1:
        message = (
            "cannot be combined with batch.size: a batch has records of all keys, so the next batch"
            " would have to wait for this batch; use a larger batch.size, or shards, each of which"
            " has its own batches"
        )
        expected = "either concurrency or batch.size"
        yield (
            draft.at(queue, "concurrency"),
            Fault(message=message, expected=expected, at_key=True),
        )


def _order_by(draft: Draft, queue: str, options: Options) -> Faults:
    if options.get("order_by") and options.get("single_active_consumer") is False:
        message = (
            "cannot be false with order_by: two processes would handle records of one key at the"
            " same time"
        )
        expected = "true, or order_by = false"
        yield draft.at(queue, "single_active_consumer"), Fault(message=message, expected=expected)


def _block_on_dead(draft: Draft, queue: str, options: Options) -> Faults:
    # For shards, order_by is true by default.
    if options.get("block_on_dead") and not options.get("order_by", "shards" in options):
        message = "has no effect without order_by, which defines the key that a dead letter blocks"
        fault = Fault(message=message, expected="order_by = true, or a field's name", at_key=True)
        yield draft.at(queue, "block_on_dead"), fault


def _timeouts(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault if `batch.wait` or `handler_timeout` is too long.

    `batch.wait` must be shorter than `idle_timeout`. `handler_timeout` must be shorter than
    RabbitMQ's consumer timeout. The embedded broker has no consumer timeout. The check reports the
    fault for this broker, too, so that a change of the broker's URL does not make a file invalid.
    """
    wait = options.get("batch", {}).get("wait_seconds", 0.0)
    idle = options.get("idle_timeout_seconds")
    if idle is not None and wait >= idle:
        expected = f"less than idle_timeout ({write_duration(idle)})"
        yield draft.at(queue, "batch", "wait"), Fault(expected=expected)
    broker = draft.loaded.get("broker", {})
    limit = broker.get("consumer_timeout_seconds", CONSUMER_TIMEOUT_SECONDS)
    if options.get("handler_timeout_seconds", HANDLER_TIMEOUT_SECONDS) >= limit:
        reason = "because RabbitMQ would deliver the message again while its handler runs"
        expected = f"less than consumer_timeout in [broker] ({write_duration(limit)}), {reason}"
        path = draft.at(queue, "handler_timeout")
        # If the file does not set handler_timeout, it has set a short consumer_timeout.
        if not draft.is_set(queue, "handler_timeout"):
            path = ("broker", "consumer_timeout")
            default = write_duration(HANDLER_TIMEOUT_SECONDS)
            expected = f"more than the handler_timeout of '{queue}' ({default}), {reason}"
        yield path, Fault(expected=expected)


# The checks of one queue. Each gets the draft, the name of the queue and its loaded options.
QUEUE_CHECKS: tuple[Callable[[Draft, str, Options], Faults], ...] = (
    check_exchange,
    check_handler,
    check_misfits,
    check_routing_keys,
    check_weights,
    _retry,
    _overflow,
    _stream,
    check_once,
    _wait,
    _concurrency,
    _order_by,
    _block_on_dead,
    _timeouts,
    check_arguments,
)


def _management(draft: Draft) -> Faults:
    """Yield a fault if requests to the management API would send the password without TLS.

    Such requests are a fault only if the broker's URL uses TLS, and the API is on another machine.
    """
    broker = draft.loaded.get("broker", {})
    url, management = broker.get("url"), broker.get("management")
    encrypted = url is not None and any(node.tls for node in url.nodes)
    if encrypted and management is not None and management.clear_text_to_others():
        expected = "https://, because url is amqps://: http:// would send the password unencrypted"
        yield ("broker", "management"), Fault(expected=expected, got="'http://…'")
