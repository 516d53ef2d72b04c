"""Checks of [store], and of the queues that need it.

The checks yield faults: mistakes in the file, each with the path of the wrong value.
"""

from __future__ import annotations

from feedbus.config.draft import Draft, Faults, Options
from feedbus.config.problems import Fault
from feedbus.topology import KEEP_HANDLED_SECONDS, PEEWEE, SQLALCHEMY, RetryPolicy
from feedbus.units import write_duration

EXPECTED_IN_STORE = {
    "url": "sqlite:///FILE or postgresql://…",
    "engine": "the dotted name of an SQLAlchemy engine, such as 'shop.db:engine',",
}


def check_once(draft: Draft, queue: str, options: Options) -> Faults:
    """Yield a fault if the queue has `once = true`, and no store keeps the ids for long enough.

    feedbus deletes the stored id of a handled message after `keep_handled`. This time must be
    longer than the delays of all retries and `max_age` of the dead letters together, because a
    retry or a requeue can deliver the message again.

    Args:
        draft: the loaded values of topology.toml.
        queue: the name of the queue.
        options: the loaded options of the queue.

    Yields:
        The path of the wrong option in topology.toml, with its fault: what is wrong.

    """
    if options.get("once") and not draft.report.has(("store",)):
        message = "needs a store, in which feedbus keeps the ids of handled messages"
        expected = 'a table [store], such as url = "sqlite:///var/store.db"'
        yield (
            draft.at(queue, "once"),
            Fault(message=f"{message}; expected {expected}", expected=expected, at_key=True),
        )
    if options.get("once") and not options.get("store", True):
        message = "cannot be false with once = true: the store keeps the ids of handled messages"
        expected = "either once or store = false"
        fault = Fault(message=message, expected=expected, at_key=True)
        yield draft.at(queue, "store"), fault
    store = draft.loaded.get("store", {})
    kept = store.get("keep_handled_seconds", KEEP_HANDLED_SECONDS)
    delays = sum(options.get("retry", {}).get("delays_seconds", RetryPolicy().delays_seconds))
    max_age = options.get("dead_letters", {}).get("max_age_seconds") or 0.0
    if options.get("once") and draft.report.has(("store",)) and kept <= delays + max_age:
        parts = f"retry delays {write_duration(delays)}"
        if max_age:
            parts += f", max_age of dead letters {write_duration(max_age)}"
        expected = (
            f"more than {write_duration(delays + max_age)}, because messages of '{queue}' can be"
            f" delivered again for so long ({parts})"
        )
        path = ("store", "keep_handled")
        got = None if draft.report.has(path) else f"{write_duration(kept)}, the default"
        yield path, Fault(expected=expected, got=got)


def check_store(draft: Draft) -> Faults:
    """Yield a fault for each option of [store] that is missing, or that has no effect.

    The option `adapter`, the library of the store, determines which options have an effect.

    Args:
        draft: the loaded values of topology.toml.

    Yields:
        The path of each such option in topology.toml, with its fault: what is wrong.

    """
    store = draft.loaded.get("store", {})
    if not draft.report.has(("store",)) or not isinstance(store, dict):
        return
    adapter = store.get("adapter", PEEWEE)
    if "adapter" not in store and draft.report.has(("store", "adapter")):
        return  # the adapter is invalid, which is reported already
    needed = {PEEWEE: "url", SQLALCHEMY: "engine"}
    for needing_adapter, option in needed.items():
        is_set = draft.report.has(("store", option))
        if adapter == needing_adapter and not is_set:
            beside = "" if adapter == PEEWEE else f' for adapter = "{adapter}"'
            yield ("store", option), Fault(expected=f"{EXPECTED_IN_STORE[option]}{beside}")
        elif is_set and adapter in needed and adapter != needing_adapter:
            message = (
                f'has no effect with adapter = "{adapter}": expected {needed[adapter]} instead'
            )
            yield ("store", option), Fault(message=message, at_key=True)
    if adapter not in needed and draft.report.has(("store", "engine")):
        message = f'has no effect with adapter = "{adapter}": only "sqlalchemy" uses an engine'
        yield ("store", "engine"), Fault(message=message, at_key=True)
