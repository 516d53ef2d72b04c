"""A count in a text has the right noun: "1 record waits", "2 records wait"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import feedbus

PACKAGE = Path(feedbus.__file__).parent
NOUNS = (
    "arguments|attempts|batches|buckets|calls|consumers|deliveries|fields|files|hosts|keys|letters|"
    "lines|messages|processes|problems|queues|reasons|records|retries|rows|shards|times"
)
PLURAL = re.compile(rf" (?:more |old |new )?(?:{NOUNS})\b")
# These counts are practically always larger than one.
CORRECT = {
    ("broker/weight_padding.py", "len(members)"),
    ("broker/weight_padding.py", "zeros"),
    ("cli/publish.py", "count"),
    ("cli/up.py", "total"),
    ("inline/system.py", "done"),
    ("records/packs.py", "len(pack)"),
    ("supervisor/watcher.py", "count"),
}


def plurals(source: str) -> Iterator[str]:
    """Yield each expression in an f-string that is written before a noun in the plural."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in pairwise(node.values):
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            expression = ast.unparse(value.value)
            constant = expression.isupper()  # such as "at most {MOST} messages"
            form = ast.unparse(value.format_spec) if value.format_spec is not None else ""
            fraction = re.search(r"\.\d[fg]", form) is not None
            if PLURAL.match(str(text.value)) and not constant and not fraction:
                yield expression


def test_every_count_in_a_text_is_written_with_its_noun_by_counted() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), expression)
        for path in PACKAGE.rglob("*.py")
        for expression in plurals(path.read_text())
    }
    assert found == CORRECT


def test_a_plural_after_a_count_is_found() -> None:
    assert list(plurals('f"{count} records wait, {MOST} lines, {x:.3f} times, {one} thing"')) == [
        "count"
    ]
