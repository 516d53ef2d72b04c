"""Collect the problems of a topology file, and find the line and column of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.config.key_paths import MISSING, KeyPath, lookup
from feedbus.errors import Problem
from feedbus.name_list import nearest

TEXT_SHOWN = 80  # the largest number of characters of a value that an error shows
NAMES_SHOWN = 12  # the largest number of known names that an error lists
LONGEST_EXPECTED = 200  # in characters; a longer list does not help
LONG_BITS = 63  # an integer with more bits does not fit into a signed integer of 64 bits


@dataclass(frozen=True, slots=True)
class Fault:
    """One problem of topology.toml, without its position; the Report stores it with its path.

    Attributes:
        expected: the expected value, in words.
        message: the text of the problem; "" for the text "expected …, got …".
        got: the found value, as the text shows it; with None, the Report takes it from the file.
        suggestion: a known name that is similar to the found name; "" if there is none.
        at_key: whether the problem is at the key, not at the value.
        hidden: whether the found value may be a secret, so that only its kind is shown.
        cause: a cause outside of the file, such as a module with an error. Of several faults with
            the same cause, only the first fault in the file is reported. "" if there is no such
            cause.

    """

    expected: str = ""
    message: str = ""
    got: str | None = None
    suggestion: str = ""
    at_key: bool = False
    hidden: bool = False
    cause: str = ""


@dataclass(slots=True)
class Report:
    """All faults of one topology.toml; config.load() makes one for each file that it reads.

    Attributes:
        file: the name of the file.
        text: the content of the file.
        document: the values of the file, in which environment variables are replaced.
        faults: each fault with the path of its value.
        blocked: paths whose values are not known. Faults at these paths or below them are ignored.
        written: the values of the file as they are written, with `${VAR}`. Errors show these
            values, because the environment may contain secrets.

    """

    file: str
    text: str
    document: Mapping[str, Any] = field(default_factory=dict)
    faults: list[tuple[KeyPath, Fault]] = field(default_factory=list)
    blocked: set[KeyPath] = field(default_factory=set)
    written: Mapping[str, Any] = field(default_factory=dict)

    def add(self, path: KeyPath, fault: Fault) -> None:
        """Add a fault, unless its path or a path above it is in `blocked`.

        Args:
            path: the keys and indexes from the root of the file to the wrong value.
            fault: what is wrong.

        """
        if not any(path[:length] in self.blocked for length in range(len(path) + 1)):
            self.faults.append((path, fault))

    def has(self, path: KeyPath) -> bool:
        """Whether the file has a value at a path (keys and indexes), even if it is invalid."""
        return lookup(self.document, path) is not MISSING

    def problems(self) -> list[Problem]:
        """Return every fault once, with its line and column in the file, sorted by position.

        Of the faults with the same `cause`, only the first one is returned.
        """
        from feedbus.config.toml_positions import Places

        places = Places(self.text)
        placed = [(self._place(places, path, fault), fault.cause) for path, fault in self.faults]
        placed.sort(key=lambda each: (each[0].line, each[0].column))
        first: dict[object, Problem] = {}
        for problem, cause in placed:
            first.setdefault(cause or problem, problem)
        return list(first.values())

    def _place(self, places: Any, path: KeyPath, fault: Fault) -> Problem:
        line, column = places.key(path) if fault.at_key else places.value(path)
        table, key = places.names(path)
        got = fault.got
        if got is None:
            found = lookup(self.written, path)
            got = kind_of(found) if fault.hidden else describe(found)
        message = _with_expected(fault) or f"expected {fault.expected}, got {got}"
        return Problem(
            file=self.file,
            line=line,
            column=column,
            table=table,
            key=key,
            message=message,
            expected=fault.expected,
            got=got,
            suggestion=fault.suggestion,
        )


def _with_expected(fault: Fault) -> str:
    """Return the message of a fault; "" if it has none.

    The expected value is added, except in these cases: it is very long, the message contains it
    already, the fault suggests a known name, or an import has failed.
    """
    message, expected = fault.message, fault.expected
    imports = message.startswith("cannot import ")
    known = fault.suggestion or "expected " in message or expected in message
    if not message or imports or known or len(expected) > LONGEST_EXPECTED:
        return message
    return f"{message}; expected {expected}"


def describe(value: Any) -> str:
    """Return a short text for a value of topology.toml, in TOML's notation, for an error.

    A long text is cut, a URL is replaced by its scheme, and a table or an array by its kind.
    """
    if isinstance(value, bool):
        shown = str(value).lower()
    elif isinstance(value, str):
        scheme, separator, _ = value.partition("://")
        text = f"{scheme}://…" if separator else value  # a URL can contain a password
        shown = f"'{text}'" if len(text) <= TEXT_SHOWN else f"'{text[:TEXT_SHOWN]}…'"
    elif isinstance(value, Mapping):
        shown = "a table" if value else "an empty table"
    elif isinstance(value, list):
        shown = "an array" if value else "an empty array"
    elif isinstance(value, int) and value.bit_length() > LONG_BITS:
        shown = "a huge integer"
    else:
        shown = "nothing" if value is MISSING else str(value)
    return shown


def kind_of(value: Any) -> str:
    """Return the kind of a value of topology.toml, such as "a text", for an error.

    The value itself must not be printed, because it may be a secret.
    """
    if isinstance(value, str):
        return "an empty text" if not value else "a text"
    if isinstance(value, bool | Mapping | list) or value is MISSING:
        return describe(value)
    return "a number" if isinstance(value, int | float) else "a date or a time"


def unknown(what: str, name: str, known: Iterable[str]) -> Fault:
    """Return the fault of an unknown key of topology.toml; it suggests the most similar known key.

    If the key is an argument of the broker, such as "x-max-priority", the fault names the option
    `arguments`.

    Args:
        what: the kind of key in the text of the fault: "option", "table" or "key".
        name: the unknown key.
        known: the known keys.

    """
    names = list(known)
    if name.startswith("x-") and "arguments" in names:
        expected = f"arguments = {{ {name} = … }}"
        message = f"not an option; write {expected}"
        return Fault(message=message, expected=expected, got=f"'{name}'", at_key=True)
    suggestion = nearest(name, names)
    expected = f"one of {', '.join(names)}"
    message = f"unknown {what}"
    if len(names) <= NAMES_SHOWN and not suggestion:
        message += f"; expected {expected}"
    elif not suggestion:
        message += "; see the page 'topology.toml' of the reference"
    return Fault(
        message=message, expected=expected, got=f"'{name}'", suggestion=suggestion, at_key=True
    )
