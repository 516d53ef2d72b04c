"""Compare the JSON output of a command with the documented fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from feedbus.cli.json_fields import meanings


def compare(command: str, output: Any) -> tuple[set[str], set[str]]:
    """Return the paths that are not documented, and the documented ones that are not there."""
    documented = {path.removesuffix("[]") for path in meanings(command)}
    seen = set(_paths(output, "", documented))
    unknown = {path for path in seen if path not in documented and not _within(path, documented)}
    return unknown, documented - seen


def _within(path: str, documented: set[str]) -> bool:
    """Whether fields in the object or list at a path are documented."""
    return any(each.startswith((f"{path}.", f"{path}[]")) for each in documented)


def _paths(value: Any, path: str, documented: set[str]) -> Iterator[str]:
    if path:
        yield path
        if path in documented and not _within(path, documented):
            return  # any object, such as the headers of a message
    if isinstance(value, dict):
        named = any(
            each == f"{path}.NAME" or each.startswith((f"{path}.NAME.", f"{path}.NAME["))
            for each in documented
        )
        for name, each in value.items():
            yield from _paths(each, f"{path}.{'NAME' if named else name}".lstrip("."), documented)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                yield from _paths(each, f"{path}[]", documented)
