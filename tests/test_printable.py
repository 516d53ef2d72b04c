"""Foreign text in logs and on terminals."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.printable import PrintableFormatter, printable, printable_json, printable_lines

BAD = "a\nb\x1b[31m\x9b1m\u202ec\u2028\ud800é"


def test_what_a_terminal_would_obey_is_escaped_and_letters_stay():
    assert printable(BAD) == "a\\nb\\x1b[31m\\x9b1m\\u202ec\\u2028\\ud800é"
    assert printable("žluť 日本 ok") == "žluť 日本 ok"


@given(st.text())
def test_nothing_that_is_not_printable_is_left(text):
    assert printable(text).isprintable()
    assert printable_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize("indent", [None, 2])
@given(value=st.dictionaries(st.text(), st.lists(st.text())))
def test_json_is_readable_and_the_same(value, indent):
    text = printable_json(value, indent=indent)
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == value


def test_a_log_record_is_one_line_and_its_traceback_cannot_pass_for_another():
    formatter = PrintableFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("no\nERROR forged \x1b[2J")  # noqa: EM101, TRY003, TRY301 -- its text
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("n", logging.ERROR, "p", 1, "failed on %s", (BAD,), info)
    first, *rest = formatter.format(record).split("\n")
    assert first == f"ERROR failed on {printable(BAD)}"
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert any("forged \\x1b[2J" in line for line in rest)
