"""Escape and shorten foreign text, for terminals, log lines and error messages."""

from __future__ import annotations

import json
from typing import Any


def printable(text: str) -> str:
    r"""Return a text in which an escape replaces each unprintable character, such as \n or \x1b.

    A character is printable if `str.isprintable` returns true. It returns false for control and
    format characters (also for characters that change the direction of text), line separators and
    lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def printable_lines(text: str) -> str:
    """Return a text in which an escape replaces each unprintable character except line ends."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def one_line(text: object) -> str:
    """Return the text of an object in one line; one space replaces each run of white space."""
    return " ".join(str(text).split())


def shortened(text: str, characters: int) -> str:
    """Return a text, or its beginning and an ellipsis if it is too long.

    Args:
        text: the text.
        characters: the largest number of characters, without the ellipsis.

    """
    return text if len(text) <= characters else f"{text[:characters]}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """Return readable JSON in which each character that is not printable is escaped.

    Args:
        value: the JSON value.
        indent: the spaces of each level of indentation; None for JSON on one line.

    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    # All line ends are from the indentation, because JSON escapes line ends within a text.
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
    )
