"""Check the headers that a program gives to publish(): names, values, and reserved names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from feedbus.wire.constants import OF_DELIVERIES, OF_OTHER_KEYS, OWN
from feedbus.wire.derived_ids import is_of_deaths, is_short_text
from feedbus.wrong_argument import refuse

HEADERS_BYTES = 65_536  # half of RabbitMQ's default limit for a frame, which contains all headers
LARGEST_INTEGER = 2**63 - 1
VALUES = (str, int, float, type(None))


def checked_headers(headers: object) -> Mapping[str, Any]:
    """Return a copy of a publisher's headers, after a check of their names and values.

    Args:
        headers: a mapping of names to texts, numbers, flags or None.

    Raises:
        TypeError: the headers are not a mapping with texts as names, or a value has a wrong type.
        ValueError: a name or a value is not within its limits, or a name is reserved.
    """
    if not isinstance(headers, Mapping):
        refuse("headers", "a mapping of names to values", headers)
    size = 0
    for name, value in headers.items():
        if not isinstance(name, str):
            refuse("headers: a name", "str", name)
        if not name or not is_short_text(name):
            msg = f"headers: expected names of 1 to 255 bytes, got {name[:60]!r}"
            raise ValueError(msg)
        if is_reserved(name):
            msg = (
                f"headers: expected another name, got '{name}', which is reserved for feedbus or"
                " the broker"
            )
            raise ValueError(msg)
        if not isinstance(value, VALUES):
            refuse(f"headers[{name!r}]", "str, int, float, bool or None", value)
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            msg = f"headers[{name!r}]: expected an integer of at most 64 bits, got {value!r:.60}"
            raise ValueError(msg)
        if isinstance(value, float) and not math.isfinite(value):
            msg = f"headers[{name!r}]: expected a number, got {value!r}"
            raise ValueError(msg)
        size += len(name) + len(_encoded(name, value))
    if size > HEADERS_BYTES:
        msg = f"headers: expected at most {HEADERS_BYTES} bytes in all, got {size}"
        raise ValueError(msg)
    return dict(headers)


def is_reserved(name: str) -> bool:
    """Whether a program may not set a header, because feedbus or the broker gives it a meaning."""
    return (
        name.startswith(OWN) or name in OF_DELIVERIES or name in OF_OTHER_KEYS or is_of_deaths(name)
    )


def _encoded(name: str, value: object) -> bytes:
    try:
        return str(value).encode()
    except UnicodeEncodeError as error:
        msg = f"headers[{name!r}]: expected UTF-8, got {value!r:.60}"
        raise ValueError(msg) from error
