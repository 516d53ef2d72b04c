"""Check that what [store] names by dotted name can be imported, and fits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from feedbus.config.draft import Draft
from feedbus.config.faults import Fault, nearest
from feedbus.config.paths import Path
from feedbus.errors import UsageError
from feedbus.handling import resolve_object
from feedbus.topology import PEEWEE, SESSIONS, SQLALCHEMY

EXPECTED = {
    "prepare": "a function that takes the topology",
    "adapter": "a function that takes the topology and returns a store",
    "engine": "an SQLAlchemy engine, as create_engine() returns it",
}


def check_store(draft: Draft, root: FilePath) -> type | None:
    """Import what a store needs, and report what does not fit; return the type of its session."""
    options = draft.loaded.get("store", {})
    if not isinstance(options, dict) or not options:
        return None
    for path, fault in _faults(options, root):
        draft.report.add(path, fault)
    adapter = options.get("adapter", PEEWEE)
    try:
        if adapter in SESSIONS:
            found: type | None = resolve_object(SESSIONS[adapter], root)
        else:
            found = getattr(resolve_object(adapter, root), "session_type", None)
    except UsageError:
        return None  # reported
    return found


def _faults(options: dict[str, Any], root: FilePath) -> Iterator[tuple[Path, Fault]]:
    adapter = options.get("adapter", PEEWEE)
    if adapter == SQLALCHEMY:
        try:
            kind = resolve_object("sqlalchemy:Engine", root)
        except UsageError as error:
            message = f"{error}; install it with: pip install 'feedbus[sqlalchemy]'"
            yield ("store", "adapter"), Fault(message=message, expected="a driver")
            return
        yield from _fits("engine", options, root, lambda found: isinstance(found, kind))
    elif adapter != PEEWEE:
        yield from _fits("adapter", options, root, _takes_one)
    yield from _fits("prepare", options, root, _takes_one)


def _fits(
    option: str, options: dict[str, Any], root: FilePath, fits: Any
) -> Iterator[tuple[Path, Fault]]:
    if option not in options:
        return
    dotted, expected = options[option], EXPECTED[option]
    try:
        found = resolve_object(dotted, root)
    except UsageError as error:
        yield (
            ("store", option),
            Fault(message=str(error), expected=expected, suggestion=_suggest(dotted)),
        )
        return
    if not fits(found):
        got = f"a {type(found).__name__}"
        if callable(found):
            got = f"{getattr(found, '__name__', got)}{_signature(found)}"
        yield ("store", option), Fault(expected=expected, got=got)


def _takes_one(found: Any) -> bool:
    """Whether something can be called with one argument."""
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        return False
    except ValueError:  # of a function in C, Python may not know it
        return True
    return not inspect.iscoroutinefunction(found)


def _signature(found: Any) -> str:
    try:
        return str(inspect.signature(found))
    except (TypeError, ValueError):
        return "()"


def _suggest(dotted: str) -> str:
    """Return the dotted name that is nearest to one whose module was imported."""
    import sys

    module, _, name = dotted.partition(":")
    near = nearest(name, list(vars(sys.modules[module]))) if module in sys.modules else ""
    return f"{module}:{near}" if near else ""
