"""The keys that a command gets as input: a range, a file of lines, or standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from feedbus.errors import UsageError

KEY_BYTES = 255
RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Keys:
    """A source of routing keys; reading raises UsageError at the first line that is not a key.

    `feedbus spread` and `feedbus balance` read their keys from it by iteration.

    Attributes:
        source: a range of numbers such as "1..1000", the path of a file with one key in each line,
            or "-" for standard input.

    """

    source: str

    def __iter__(self) -> Iterator[str]:
        """Yield the keys in order; a key on two lines is yielded twice."""
        match = RANGE.fullmatch(self.source)
        if match:
            return map(str, range(int(match[1]), int(match[2]) + 1))
        return (check_key(text, where) for where, text in self.lines())

    @property
    def is_range(self) -> bool:
        """Whether the keys are a range of numbers, and not lines of a file."""
        return RANGE.fullmatch(self.source) is not None

    @property
    def described(self) -> str:
        """The name of the source in an error message."""
        return "standard input" if self.source == "-" else self.source

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the position (file:line) and the text of each line that is not empty.

        Raises:
            UsageError: the source cannot be read, or a line is not in UTF-8.

        """
        name = self.described
        try:
            standard = nullcontext(sys.stdin.buffer)
            with standard if self.source == "-" else Path(self.source).open("rb") as file:
                for number, line in enumerate(file, 1):
                    text = line.removesuffix(b"\n").removesuffix(b"\r")
                    if number == 1:
                        text = text.removeprefix(_BYTE_ORDER_MARK)
                    if text:
                        yield f"{name}:{number}", _decode(text, f"{name}:{number}")
        except OSError as error:
            msg = f"cannot read keys from {name}: {error.strerror or error}"
            raise UsageError(msg) from error


def _decode(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        msg = f"{where}: expected a routing key in UTF-8, one on each line, got {error.reason}"
        raise UsageError(msg) from error


def check_key(key: str, where: str) -> str:
    """Return a routing key if it is short enough.

    It is called for each key that `feedbus spread` or `feedbus balance` reads.

    Args:
        key: the routing key.
        where: the position of the key in the input, for the text of the error.

    Raises:
        UsageError: the key has more than 255 bytes in UTF-8.

    """
    length = len(key.encode())
    if length > KEY_BYTES:
        msg = f"{where}: expected a routing key of at most {KEY_BYTES} bytes, got {length:,}"
        raise UsageError(msg)
    return key
