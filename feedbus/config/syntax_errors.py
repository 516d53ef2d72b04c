"""Errors in the syntax of a topology file, with the correct form."""

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

NAMED_TABLES: Mapping[str, type[TableSchema]] = {
    "exchanges": ExchangeTable,
    "queues": QueueTable,
    "processes": ProcessTable,
    "schedules": ScheduleTable,
}
WORD = re.compile(r"[^\W\d][\w.:/-]*")
INSTEAD = {
    **dict.fromkeys(("true", "yes", "on"), "write true"),
    **dict.fromkeys(("false", "no", "off"), "write false"),
    **dict.fromkeys(("none", "null", "nil"), "leave the option out"),
}


def problem_of(file: str, text: str, place: tuple[int, int], reason: str) -> Problem:
    """Return the problem of a text that is not TOML.

    Args:
        file: the name of the file.
        text: the content of the file.
        place: the line and column where the parser has stopped.
        reason: the reason that the parser gave.

    """
    from feedbus.config.toml_positions import Places, write  # loads a parser: for an error alone

    for path, (line, column), first in Places(text).repeated:
        if line <= place[0]:
            table, key = write(path[:-1]), write(path[-1:])
            message = f"it is set in line {first[0]} already; remove one of the two"
            return Problem(file, line, column, table, key, message, "each option once")
    message = f"this is not TOML: {reason[:1].lower()}{reason[1:]}"
    rest = text.split("\n")[place[0] - 1][place[1] - 1 :]
    if (word := WORD.match(rest)) and reason == "Invalid value":
        advice = INSTEAD.get(word[0].lower(), f'write a text in quotes: "{word[0]}"')
        message = f"expected a value, got {word[0]}: {advice}"
    return Problem(file, *place, "", "", message, "TOML")


def report_unquoted(document: Mapping[str, object], report: Report) -> None:
    """Report names with a dot but without quotes, which TOML reads as two tables.

    Args:
        document: the content of the file.
        report: gets a problem for each of them; other problems in these tables are ignored.

    """
    for kind, entries in NAMED_TABLES.items():
        entry, found = entries().load_fields, document.get(kind)
        for name, table in found.items() if isinstance(found, Mapping) else ():
            if not isinstance(table, Mapping) or not table:
                continue
            if any(not isinstance(inner, Mapping) for inner in table.values()):
                continue
            if not entry.keys().isdisjoint(table):
                continue
            from feedbus.config.toml_positions import write  # as above

            for last in table:
                path: KeyPath = (kind, name, last)
                expected = f"[{write((kind, f'{name}.{last}'))}]"
                message = f"a name that contains a dot must be in quotes: write {expected}"
                report.add(path, Fault(message=message, expected=expected, at_key=True))
            report.blocked.add((kind, name))
