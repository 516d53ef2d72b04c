"""Raise TypeError for arguments of a wrong type, with the same wording everywhere."""

from __future__ import annotations

import os
from typing import Any, NoReturn

from feedbus.printable import shortened

SHOWN_CHARACTERS = 60


def refuse(argument: str, expected: str, given: object, hint: str = "") -> NoReturn:
    """Raise TypeError for an argument of a public function, with the expected and the given value.

    Args:
        argument: the name of the argument.
        expected: the expected type or value.
        given: the given value.
        hint: what to do, if that is not obvious; "" for no hint.

    Raises:
        TypeError: always.

    """
    shown = shortened(repr(given), SHOWN_CHARACTERS)
    advice = f"; {hint}" if hint else ""
    msg = f"{argument}: expected {expected}, got {shown} of type {type(given).__name__}{advice}"
    raise TypeError(msg)


def check_seconds(argument: str, given: Any) -> None:
    """Raise an error if an argument of a public function is not a number of seconds, 0 or more.

    Args:
        argument: the name of the argument.
        given: the given value.

    Raises:
        TypeError: the value is not a number.
        ValueError: the value is negative, or not a number of seconds, such as nan.

    """
    if not isinstance(given, int | float) or isinstance(given, bool):
        refuse(argument, "a number of seconds", given)
    if not given >= 0:  # nan is not less than 0 either
        msg = f"{argument}: expected at least 0 seconds, got {given}"
        raise ValueError(msg)


def check_path(argument: str, given: object, other: str = "a parsed topology") -> None:
    """Raise TypeError if an argument of a public function is not a path.

    Args:
        argument: the name of the argument.
        given: the given value.
        other: the other values that the public function accepts, for the text of the error.

    """
    if not isinstance(given, str | os.PathLike):
        refuse(argument, f"the path of a file, or {other}", given)
