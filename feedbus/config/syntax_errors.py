"""Problems for errors in the syntax of a topology file; each problem says the correct form."""

from __future__ import annotations

import re
from collections.abc import Mapping

from feedbus.config.exchange_options import ExchangeTable
from feedbus.config.key_paths import KeyPath
from feedbus.config.problems import Fault, Report
from feedbus.config.process_options import ProcessTable
from feedbus.config.queue_options import QueueTable
from feedbus.config.schedule_options import ScheduleTable
from feedbus.config.table_types import TableSchema
from feedbus.errors import Problem
from feedbus.printable import shortened

NAMED_TABLES: Mapping[str, type[TableSchema]] = {
    "exchanges": ExchangeTable,
    "queues": QueueTable,
    "processes": ProcessTable,
    "schedules": ScheduleTable,
}
WORD = re.compile(r"[\w.:/@+-]+")
SHOWN = 40  # the largest number of characters of a word that an error shows
# What to do about a word that is no value in TOML.
INSTEAD = {
    **dict.fromkeys(("true", "yes", "on"), "write true"),
    **dict.fromkeys(("false", "no", "off"), "write false"),
    **dict.fromkeys(("none", "null", "nil"), "leave the option out"),
}
NO_VALUE, MORE_THAN_A_VALUE = "Invalid value", "Expected newline"
# (the beginning of the reason that tomllib gives, what TOML expects there, what to do)
EXPECTED = (
    (NO_VALUE, "a value", "write a text in quotes, a number, true or false"),
    (
        MORE_THAN_A_VALUE,
        "the end of the line after a value",
        "write each option on a line of its own, and texts in quotes",
    ),
    ("Expected '='", "'=' after the name of an option", "write NAME = VALUE"),
    (
        "Invalid statement",
        "[TABLE] or NAME = VALUE",
        "write a name with other letters than A to Z in quotes",
    ),
    (
        "Invalid initial character for a key",
        "the name of an option",
        "write a table in braces on one line, without a comma at its end",
    ),
    ("Unclosed array", "',' or ']'", "end the array with ']'"),
    ("Unclosed inline table", "',' or '}'", "write { NAME = VALUE, NAME = VALUE } on one line"),
    ("Expected ']'", "']' at the end of a table's name", "write [TABLE]"),
    ("Expected ']]'", "']]' at the end of a table's name", "write [[TABLE]]"),
    ("Illegal character '\\n'", "a quote at the end of a text", "end the text with a quote"),
    ("Found invalid character '\\n'", "a quote at the end of a text", "end the text with a quote"),
    ("Expected \"'", "a quote at the end of a text", "end the text with a quote"),
    ("Unterminated string", "quotes at the end of a text", "end the text with its quotes"),
    ("Illegal character", "a printable character", "write it as an escape, such as \\u001b"),
    ("Found invalid character", "a printable character", "write the text in double quotes"),
    (
        "Unescaped",
        "an escape such as \\n",
        "write \\\\ for a backslash, or the text in single quotes",
    ),
    ("Invalid hex value", "hexadecimal digits", "write an escape such as \\u001b"),
    ("Escaped character is not", "a character", "write another escape"),
    ("Invalid date", "a date of the calendar", "write a text in quotes"),
)
# The beginnings of tomllib's reasons for a name that is set twice.
SET_TWICE = ("Cannot ", "Duplicate ")


def problem_of(file: str, text: str, place: tuple[int, int], reason: str) -> Problem:
    """Return the problem of a text that is not TOML: what was expected, what was got, what to do.

    Args:
        file: the name of the file.
        text: the content of the file.
        place: the line and column, from 1, at which the parser stopped.
        reason: the reason that the parser gave.

    """
    # toml_positions loads a parser, which is needed only for an error. So it is imported late.
    from feedbus.config.toml_positions import Places, write

    # If a name is set twice before the parser stopped, the second one is the problem. Places finds
    # it, because the reason of tomllib does not contain the name.
    for path, (line, column), first in Places(text).repeated:
        if line <= place[0]:
            table, key = write(path[:-1]), write(path[-1:])
            message = f"it is set in line {first[0]} already; remove one of the two"
            return Problem(file, line, column, table, key, message, "each option once")
    expected, advice = next(
        (found for begin, *found in EXPECTED if reason.startswith(begin)), ("TOML", "")
    )
    more = reason.startswith(MORE_THAN_A_VALUE)
    stopped, (place, word) = place, _word_at(text, place, also_within=more)
    if word and (reason == NO_VALUE or place != stopped):
        advice = _as_value(word)
    got = _shown(word) if word else _character(text, place)
    if reason.startswith(SET_TWICE):
        expected, got = "each name once", "a name that is already set"
        advice = "remove one of the two"
        written = text.split("\n")[place[0] - 1]
        place = place[0], len(written) - len(written.lstrip()) + 1
    message = f"expected {expected}, got {got}; {advice}"
    if not advice:
        message = f"this is not TOML: {reason[:1].lower()}{reason[1:]}"
    return Problem(file, *place, "", "", message, expected, got)


def _word_at(
    text: str, place: tuple[int, int], *, also_within: bool
) -> tuple[tuple[int, int], str]:
    """Return where the word at a position begins, and the word.

    If there is no word, the result is the position itself and "".

    Args:
        text: the content of the file.
        place: the position, by line and column.
        also_within: whether the position may be within the word. For example, the parser reads 10
            in the word 10m as a number, and stops at the m.

    """
    line, column = place
    for word in WORD.finditer(text.split("\n")[line - 1]):
        begins = word.start() + 1
        if begins == column or (also_within and begins < column <= word.end()):
            return (line, begins), word[0]
    return place, ""


def _as_value(word: str) -> str:
    """Return what to write in place of a word that is not a TOML value."""
    if word.isdecimal():
        return f"write {int(word)}"
    return INSTEAD.get(word.lower(), f'write a text in quotes: "{_shown(word)}"')


def _shown(word: str) -> str:
    """Return a word as an error shows it; a URL can contain a password."""
    scheme, separator, _ = word.partition("://")
    word = f"{scheme}://…" if separator else word
    return shortened(word, SHOWN)


def _character(text: str, place: tuple[int, int]) -> str:
    """Return the character at a position as an error shows it, or "the end of the line"."""
    lines = text.split("\n")
    rest = lines[place[0] - 1][place[1] - 1 :].removesuffix("\r")
    if rest:
        return repr(rest[0])
    return "the end of the file" if place[0] == len(lines) else "the end of the line"


def report_unquoted(document: Mapping[str, object], report: Report) -> None:
    """Report names with a dot but without quotes in topology.toml, such as `a.b` in [queues.a.b].

    TOML reads this name as the table `b` in the table `a`. So `a` is a part of such a name if it
    contains only tables, and none of them has the name of an option.

    Args:
        document: the parsed values of the file.
        report: gets a fault for each such name; other faults in these tables are ignored.

    """
    for kind, entries in NAMED_TABLES.items():
        options, tables = entries().load_fields, document.get(kind)
        for name, table in tables.items() if isinstance(tables, Mapping) else ():
            if not isinstance(table, Mapping) or not table:
                continue
            if any(not isinstance(inner, Mapping) for inner in table.values()):
                continue
            if not options.keys().isdisjoint(table):
                continue
            from feedbus.config.toml_positions import write  # as above

            for last in table:
                path: KeyPath = (kind, name, last)
                expected = f"[{write((kind, f'{name}.{last}'))}]"
                message = f"a name that contains a dot must be in quotes: write {expected}"
                report.add(path, Fault(message=message, expected=expected, at_key=True))
            report.blocked.add((kind, name))
