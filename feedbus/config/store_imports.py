"""Check that the Python objects of [store] can be imported and are suitable."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedbus.config.draft import Draft
from feedbus.config.import_faults import import_fault
from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault
from feedbus.errors import UsageError
from feedbus.handling.imported_objects import resolve_object
from feedbus.name_list import nearest
from feedbus.topology import PEEWEE, SESSIONS, SQLALCHEMY

# The result of _session_type() if the type is known only after the store was opened.
UNKNOWN = object()
EXPECTED = {
    "prepare": "a function that takes the topology",
    "adapter": "a function that takes the topology and returns a store",
    "engine": "an SQLAlchemy engine, as create_engine() returns it",
}


@dataclass(frozen=True, slots=True)
class StoreOffer:
    """The features of the store that handlers can use.

    The check of imports makes one StoreOffer object for the store, and one for each queue.

    Attributes:
        is_there: whether handlers run in transactions of the store.
        session_type: the type of the store's session; None if the store has no session.

    """

    is_there: bool
    session_type: type | None = None

    def to(self, options: Mapping[str, Any]) -> StoreOffer:
        """Return the features of the store that the handlers of one queue can use.

        With `store = false`, handlers of the queue cannot use the store.

        Args:
            options: the loaded options of the queue.

        """
        return self if options.get("store", True) else StoreOffer(is_there=False)


def check_store(draft: Draft, root: Path) -> type | None:
    """Import the objects that [store] names, and report a fault for each unsuitable one.

    Args:
        draft: the loaded values of topology.toml; its report gets the faults.
        root: the folder of the topology, from which modules are imported.

    Returns:
        The type of the session; None if there is no session, or a problem was reported.

    """
    options = draft.loaded.get("store", {})
    if not isinstance(options, dict) or not options:
        return None
    faults = list(_faults(options, root))
    for path, fault in faults:
        draft.report.add(path, fault)
    adapter = options.get("adapter", PEEWEE)
    try:
        if adapter in SESSIONS:
            found: type | None = resolve_object(SESSIONS[adapter], root)
            return found
        opener = resolve_object(adapter, root)
    except UsageError:
        return None  # the problem is reported already
    session_type = _session_type(opener)
    if session_type is UNKNOWN and not faults:
        name = getattr(opener, "__name__", "open_store")
        expected = f"def {name}(topology: Topology) -> a class whose session_type is a type or None"
        fault = Fault(expected=expected, got=f"{name}{_signature(opener)}")
        draft.report.add(("store", "adapter"), fault)
    return session_type if isinstance(session_type, type) else None


def check_connections(draft: Draft, root: Path) -> None:
    """Report each queue whose concurrency needs more connections than the SQLAlchemy pool has.

    Each record that is handled at the same time needs a connection, and `once` needs one more.

    Args:
        draft: the loaded values of topology.toml; its report gets the faults.
        root: the folder of the topology, from which the module of the engine is imported.

    """
    options = draft.loaded.get("store", {})
    if options.get("adapter") != SQLALCHEMY:
        return
    try:
        pool = resolve_object(options.get("engine", ""), root).pool
        most = pool.size() + pool._max_overflow if pool._max_overflow >= 0 else None  # noqa: SLF001 -- it has no other name
    except (UsageError, AttributeError):
        return  # the problem is reported already, or the pool has no limit
    for queue, queue_options in draft.queues.items():
        concurrency = queue_options.get("concurrency", 1)
        needed = concurrency + queue_options.get("once", False)
        transacted = queue_options.get("store", True) and not queue_options.get("stream")
        if most is None or concurrency == 1 or not transacted or needed <= most:
            continue
        expected = f"an engine with pool_size={needed}, or a lower concurrency"
        message = (
            f"{concurrency} concurrent records need {needed} connections to the store, but the pool"
            f" of {options['engine']} has {most}: expected {expected}"
        )
        draft.report.add(draft.at(queue, "concurrency"), Fault(message=message, expected=expected))


def _session_type(opener: Any) -> Any:
    """Return the session_type of a store class, or of the stores that a function returns.

    Returns:
        The type; None if the stores have no session; UNKNOWN if it is not declared.

    """
    store = opener
    if not isinstance(opener, type):
        try:
            store = typing.get_type_hints(opener).get("return")
        # NameError: an annotation is imported for type checkers only. TypeError: not a function.
        except (NameError, TypeError):
            return UNKNOWN
    found = getattr(store, "session_type", UNKNOWN)
    return found if found is None or isinstance(found, type) else UNKNOWN


def _faults(options: dict[str, Any], root: Path) -> Iterator[tuple[KeyPath, Fault]]:
    """Yield a fault for each object of [store] that cannot be imported or is unsuitable."""
    adapter = options.get("adapter", PEEWEE)
    if adapter == SQLALCHEMY:
        try:
            kind = resolve_object("sqlalchemy:Engine", root)
        except UsageError as error:
            yield ("store", "adapter"), import_fault(error, "a driver", root)
            return
        yield from _fits("engine", options, root, lambda found: isinstance(found, kind))
    elif adapter != PEEWEE:
        yield from _fits("adapter", options, root, _takes_one)
    yield from _fits("prepare", options, root, _takes_one)


def _fits(
    option: str, options: dict[str, Any], root: Path, fits: Any
) -> Iterator[tuple[KeyPath, Fault]]:
    """Yield a fault if the object that an option names cannot be imported, or does not fit.

    Args:
        option: the name of the option.
        options: the loaded options of [store].
        root: the folder of the topology.
        fits: returns whether the imported object is suitable.

    """
    if option not in options:
        return
    dotted, expected = options[option], EXPECTED[option]
    try:
        found = resolve_object(dotted, root)
    except UsageError as error:
        yield ("store", option), import_fault(error, expected, root, _suggest(dotted))
        return
    if not fits(found):
        got = f"a {type(found).__name__}"
        if callable(found):
            got = f"{getattr(found, '__name__', got)}{_signature(found)}"
        yield ("store", option), Fault(expected=expected, got=got)


def _takes_one(found: Any) -> bool:
    """Whether an object can be called with one argument, and is not a coroutine function."""
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return False
    except ValueError:  # Python may not know the signature of a function in C
        return True
    return not inspect.iscoroutinefunction(found)


def _signature(found: Any) -> str:
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return "()"


def _suggest(dotted: str) -> str:
    """Return an existing dotted name that is similar to a wrong name, or ""."""
    module, _, name = dotted.partition(":")
    near = nearest(name, list(vars(sys.modules[module]))) if module in sys.modules else ""
    return f"{module}:{near}" if near else ""
