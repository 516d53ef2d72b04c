"""Build a Topology from a draft: the loaded values of a file in which no check found a fault."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from feedbus.config.broker_and_store_options import BROKER_URL, CONSUMER_TIMEOUT_SECONDS
from feedbus.config.draft import Draft
from feedbus.config.options import VAR
from feedbus.config.queue_options import MOST_PREFETCH
from feedbus.config.ring_checks import weights_of
from feedbus.topology import (
    PREFETCH,
    Batch,
    DeadLetters,
    Exchange,
    Logging,
    Operations,
    Process,
    Queue,
    RetryPolicy,
    Schedule,
    StoreOptions,
    Topology,
)
from feedbus.urls import BrokerUrl, parse_broker_url


def build(draft: Draft, path: Path) -> Topology:
    """Return the topology of a draft.

    Relative paths in the file (`var`, sqlite URLs, files of certificates) are resolved against the
    folder of the file.

    Args:
        draft: the loaded values; no check has reported a fault in them.
        path: the absolute path of the file.

    """
    loaded = draft.loaded
    root = path.parent
    broker, store = loaded.get("broker", {}), loaded.get("store", {})
    management = broker.get("management")
    return Topology(
        name=loaded["name"],
        path=path,
        broker_url=_broker_url(draft, broker).within(root),
        management_url=management and management.within(root),
        consumer_timeout_seconds=broker.get("consumer_timeout_seconds", CONSUMER_TIMEOUT_SECONDS),
        store=_store(store, root) if "store" in loaded else None,
        exchanges=_freeze(
            {name: Exchange(name, **_frozen(one)) for name, one in loaded["exchanges"].items()}
        ),
        queues=_freeze({name: _queue(name, one) for name, one in draft.queues.items()}),
        processes=_freeze(
            {
                name: Process(name, **_frozen(one))
                for name, one in loaded.get("processes", {}).items()
            }
        ),
        operations=_operations(loaded.get("operations", {})),
        logging=Logging(**loaded.get("logging", {})),
        commands=_freeze(loaded.get("commands", {})),
        codecs=_freeze(loaded.get("codecs", {})),
        middleware=loaded.get("middleware", {}).get("use", ()),
        schedules=_freeze(
            {
                name: Schedule(name, **_frozen(one))
                for name, one in loaded.get("schedules", {}).items()
            }
        ),
        var=Path(os.path.abspath(root / loaded.get("var", VAR))),  # noqa: PTH100 -- resolve() would follow links
    )


def _broker_url(draft: Draft, options: Mapping[str, Any]) -> BrokerUrl:
    if ("broker", "url") in draft.report.blocked:  # a variable in the URL is not set
        return BrokerUrl.unknown()  # only for a caller of load() that does not connect
    url: BrokerUrl = options.get("url") or parse_broker_url(BROKER_URL)
    return url


def _store(options: Mapping[str, Any], root: Path) -> StoreOptions:
    given = dict(options)
    if "url" in given:
        given["url"] = given["url"].within(root)
    return StoreOptions(**given)


def _operations(options: Mapping[str, Any]) -> Operations | None:
    given = dict(options)
    return Operations(**given) if given.pop("enabled", True) else None


def _queue(name: str, options: Mapping[str, Any]) -> Queue:
    given = _frozen(options)
    given["weights"] = weights_of(dict(options))
    given.pop("weight", None)
    if "batch" in given:
        given["batch"] = Batch(**given["batch"])
    if "dead_letters" in given:
        given["dead_letters"] = DeadLetters(**given["dead_letters"])
    if "retry" in given:
        given["retry"] = _retry_policy(**given["retry"])
    given.setdefault("exchange", "")  # an external queue has no exchange
    given.setdefault("order_by", "shards" in given)
    given.setdefault("single_active_consumer", bool("shards" in given or given["order_by"]))
    # By default, the broker delivers twice as many messages as the process handles at a time. So
    # the next messages have arrived when a handler ends. The default is at least PREFETCH, and at
    # most the largest value that AMQP allows.
    twice = min(2 * given.get("concurrency", 1), MOST_PREFETCH)
    given.setdefault("prefetch", max(PREFETCH, twice))
    return Queue(name, **given)


def _retry_policy(then: Any = None, *, repeat: bool = False, **options: Any) -> RetryPolicy:
    return RetryPolicy(then="repeat" if repeat else then, **options)


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loaded options of a table as arguments of the dataclass for the table.

    Options that are mappings become read-only. `external` is left out.
    """
    frozen = dict(options)
    # The dataclasses have no field for `external`. They need none: the checks ensure that
    # `external_name` is set exactly if `external` is true.
    frozen.pop("external", None)
    for key in ("arguments", "environment", "handlers", "handlers_by_type", "payload"):
        if key in frozen:
            frozen[key] = _freeze(frozen[key])
    return frozen


def _freeze(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))
