"""Show foreign text: nothing in it may steer a terminal or pass for another line of a log."""

from __future__ import annotations

import json
import logging
from typing import Any

from feedbus.errors import TopologyError


def printable(text: str) -> str:
    r"""Return text with an escape for each character that is not printable, such as \n or \x1b.

    What is printable is what `str.isprintable` says: control and format characters (among them
    those that reverse the direction of text), line separators and lone surrogates are not.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def printable_lines(text: str) -> str:
    """Return text in which all but its line ends is printable: for what is ours and has several."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def error_text(error: Exception) -> str:
    """Return what a command prints of an error: one line, or one for each problem of a topology."""
    problems = error.problems if isinstance(error, TopologyError) else ()
    if not problems:
        return f"error: {printable_lines(str(error))}"
    count = f"{len(problems):,} problem{'s' if len(problems) > 1 else ''}"
    return f"error: {count} in the topology\n{printable_lines(str(error))}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """Return readable JSON in which each character that is not printable is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    # Line ends come from the indentation: within a text JSON has escaped them.
    return "".join(
        each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text
    )


class PrintableFormatter(logging.Formatter):
    """Formats log records: one line each, and an indented traceback where there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """Return the record's line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- logging's name
        """Return a traceback whose lines cannot be taken for records."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 -- logging's name
        """Return a stack in the same way."""
        return _indented(super().formatStack(stack_info))


def log_handler(format_: str, time_format: str | None = None) -> logging.Handler:
    """Return a handler that writes printable records to stderr, for logging.basicConfig."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(format_, time_format))
    return handler


def _indented(text: str) -> str:
    return "\n".join(f"  {printable(line)}" for line in text.split("\n"))
