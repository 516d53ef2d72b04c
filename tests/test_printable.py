"""Foreign text in logs and on terminals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.printable import printable, printable_json, printable_lines

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
