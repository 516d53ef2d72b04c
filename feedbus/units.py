"""Read and write durations, sizes and counts: "20ms", "1h30m", "1GB", "2 queues"."""

from __future__ import annotations

import math
import re

UNIT_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
UNIT_BYTES = {
    "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6,
    "KiB": 2**10, "KB": 10**3, "B": 1,
}  # fmt: skip
# The longest duration. A time to live on the broker has 32 bits, in milliseconds. The same limit is
# used for every duration.
LONGEST_SECONDS = 49 * UNIT_SECONDS["d"]
LARGEST_BYTES = 2**50
SMALL_DIGITS = 6  # a size without a unit that has at most so many digits means megabytes
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?d)?(\d{1,9}(?:\.\d{1,6})?h)?(\d{1,9}(?:\.\d{1,6})?m)?"
                      r"(\d{1,9}(?:\.\d{1,6})?s)?(\d{1,9}(?:\.\d{1,6})?ms)?", re.ASCII)  # fmt: skip
SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)(TiB|TB|GiB|GB|MiB|MB|KiB|KB|B)", re.ASCII)
# A wrong duration whose meaning can be guessed, such as "5 minutes".
SPOKEN = re.compile(r"\s*(\d+)\s*(ms|msec|[smhd]|sec|min|second|minute|hour|hr|day)s?\s*", re.ASCII)


def read_duration(text: str) -> float | None:
    """Return the number of seconds in a text such as "1h30m", or None if it is not a duration.

    The notation is that of durations in topology.toml.
    """
    parts = DURATION.fullmatch(text)
    if not (text and parts):
        return None
    seconds = 0.0
    for part, (unit, factor) in zip(parts.groups(), UNIT_SECONDS.items(), strict=True):
        seconds += float(part.removesuffix(unit)) * factor if part else 0.0
    return round(seconds, 6)


def write_duration(seconds: float) -> str:
    """Return the shortest text of a duration, such as "1h30m", that read_duration() can read.

    Args:
        seconds: the duration; it is rounded to milliseconds.

    """
    left = round(seconds * 1000)
    written = ""
    for unit, factor in UNIT_SECONDS.items():
        count, left = divmod(left, round(factor * 1000))
        written += f"{count}{unit}" if count else ""
    return written or "0s"


def guess_duration(value: object) -> str:
    """Return the duration that a wrong value probably means, or "", for the text of an error.

    Args:
        value: the wrong value, such as "5 minutes", or 5, which means seconds.

    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return write_duration(value) if 0 < value <= LONGEST_SECONDS else ""
    spoken = SPOKEN.fullmatch(value.lower()) if isinstance(value, str) else None
    if not spoken:
        return ""
    return f"{spoken[1]}{'ms' if spoken[2].startswith('ms') else spoken[2][0]}"


def read_size(text: str) -> int | None:
    """Return the number of bytes in a text such as "512MB", or None if it is not a size."""
    found = SIZE.fullmatch(text)
    return math.floor(float(found[1]) * UNIT_BYTES[found[2]]) if found else None


def guess_size(value: object) -> str:
    """Return the size that a wrong value such as "1 gb", "512m" or 512 probably means, or "".

    An error about the value suggests the size. A small number without a unit means megabytes:
    nobody limits a process to some hundred bytes.
    """
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    if isinstance(value, int) and not 0 < value <= LARGEST_BYTES:
        return ""  # Python does not write huge integers
    squeezed = re.sub(r"\s+", "", str(value)).upper().replace("IB", "iB")
    unit = "MB" if squeezed.isdecimal() and len(squeezed) <= SMALL_DIGITS else "B"
    for text in (squeezed, f"{squeezed}{unit}"):
        if read_size(text):
            return text
    return ""


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: 1 queue, 2 queues.

    Args:
        count: the count.
        noun: the noun in the singular.
        plural: the noun in the plural; "" if the plural is the singular with an s.

    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
