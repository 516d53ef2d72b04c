"""Check the options of publish(): headers, priority, expires and delay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from feedbus.errors import LONGEST_WAIT_SECONDS
from feedbus.units import LONGEST_SECONDS, read_duration, write_duration
from feedbus.wire.header_checks import checked_headers
from feedbus.wire.message_options import Envelope, PublishOptions
from feedbus.wrong_argument import refuse

HIGHEST_PRIORITY = 255
# Names of arguments in other libraries (Kombu, Celery), with the names in feedbus.
OTHER_NAMES = {"routing_key": "key", "expiration": "expires", "countdown": "delay"}


def envelope_of(options: Mapping[str, Any], *other_arguments: str) -> Envelope | None:
    """Return the checked options of one publish() call, or None if no option is set.

    Args:
        options: the keyword arguments that publish() takes as options.
        other_arguments: the other keyword arguments of publish(), for the text of an error.

    Raises:
        TypeError: an option is unknown or has a wrong type.
        ValueError: a value is not within its limits, or the name of a header is reserved.

    """
    for name in options:
        if name not in PublishOptions.__annotations__:
            raise TypeError(_unknown(name, other_arguments))
    if all(value is None for value in options.values()):
        return None
    headers = options.get("headers")
    expires = _milliseconds("expires", options.get("expires"))
    delay = _milliseconds("delay", options.get("delay"), LONGEST_WAIT_SECONDS)
    if expires is not None and delay is not None and expires <= delay:
        msg = (
            f"expires: expected more than the delay of {delay / 1000:g} s, because both begin"
            f" when the message is published; got {expires / 1000:g} s"
        )
        raise ValueError(msg)
    return Envelope(
        {} if headers is None else checked_headers(headers),
        _priority(options.get("priority")),
        expires,
        delay,
    )


def _unknown(name: str, other_arguments: Sequence[str]) -> str:
    """Return the error of an argument that publish() does not have."""
    from difflib import get_close_matches  # only for an error

    known_names = [*other_arguments, *PublishOptions.__annotations__]
    near = OTHER_NAMES.get(name) or "".join(get_close_matches(name, ["key", *known_names], n=1))
    hint = f"; did you mean '{near}'?" if near else ""
    return f"publish() has no argument '{name}'; its options are {', '.join(known_names)}{hint}"


def _priority(priority: object) -> int | None:
    if priority is None:
        return None
    if not isinstance(priority, int) or isinstance(priority, bool):
        refuse("priority", f"int from 0 to {HIGHEST_PRIORITY}", priority)
    if not 0 <= priority <= HIGHEST_PRIORITY:
        msg = f"priority: expected 0 to {HIGHEST_PRIORITY}, got {priority}"
        raise ValueError(msg)
    return priority


def _milliseconds(name: str, given: object, max_seconds: float = LONGEST_SECONDS) -> int | None:
    """Return a duration in milliseconds, rounded up to an integer; None if None was given.

    Args:
        name: the name of the option, for the text of an error.
        given: a text such as "30s", or a number of seconds.
        max_seconds: the longest valid duration.

    """
    if given is None:
        return None
    if isinstance(given, str):
        seconds = read_duration(given)
        if seconds is None:
            msg = f"{name}: expected a duration such as '30s' or '1h30m', got {given!r:.60}"
            raise ValueError(msg)
    elif isinstance(given, int | float) and not isinstance(given, bool):
        seconds = given
    else:
        refuse(name, "a duration such as '30s', or seconds", given)
    if not 0 < seconds <= max_seconds:
        longest = write_duration(max_seconds)
        msg = f"{name}: expected more than 0 and at most {longest}, got {given!r:.60}"
        raise ValueError(msg)
    # round() removes the errors of floats: 1.1 * 1000 is 1100.0000000000002.
    return max(1, math.ceil(round(seconds * 1000, 3)))
