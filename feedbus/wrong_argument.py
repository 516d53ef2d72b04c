"""Raise TypeError for arguments of a wrong type, with the same wording everywhere."""

from __future__ import annotations

from typing import NoReturn

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
