"""The places of the values in a TOML text, also of values within arrays and inline tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Comments and the line ends of arrays; texts; characters of the grammar; all other values and keys.
TOKEN = re.compile(
    r"""#[^\n]*|\n|"{3}.*?"{3}|'{3}.*?'{3}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[\[\]{},=]"""
    r"""|[^\s\[\]{},=#"']+""",
    re.DOTALL,
)


def places_of_values(text: str) -> Iterator[tuple[int, int, int]]:
    """Yield the begin, the end and the depth of each value; an inner value before its array.

    The text may be invalid, because it may have been changed at random. Then the result may lack
    values.

    Args:
        text: a TOML text.

    Yields:
        For each value: the index of its first character, the index after its last character, and
        the number of arrays and inline tables that contain it.

    """
    opened: list[tuple[str, int]] = []  # the open brackets with their indexes
    is_value_next = False
    for token in TOKEN.finditer(text):
        word, start, end = token[0], token.start(), token.end()
        if word[0] == "#":
            continue
        if word == "\n":
            is_value_next = is_value_next and bool(opened)
        elif word == "=":
            is_value_next = True
        elif word == ",":
            is_value_next = bool(opened) and opened[-1][0] == "["
        elif word in "]}":
            if opened:
                _, start = opened.pop()
                yield start, end, len(opened)
            is_value_next = False
        elif is_value_next and word in "[{":
            opened.append((word, start))
            is_value_next = word == "["
        elif is_value_next:
            yield start, end, len(opened)
            is_value_next = False
