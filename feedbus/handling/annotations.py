"""Evaluate the annotations of a function, and describe the function in the texts of errors."""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from feedbus.errors import UsageError


class Unfit(UsageError):  # noqa: N818 -- clear without "Error"
    """A function or class can never work in its role, for example as a handler.

    The text of the error contains the name, the file and the line of the function or class.

    Args:
        marked: the function or class.
        expected: what would work.
        got: what was found instead, as a phrase that follows the name, such as "is a class".
        advice: what to write; "" for no advice.

    Attributes:
        expected: as the argument.
        got: as the argument, without "is " at the beginning.
        at_import: whether this error prevents the import of the module that contains the function
            or class.
    """

    at_import = False

    def __init__(self, marked: object, expected: str, got: str, advice: str = "") -> None:
        """Create the error; its text contains the object's name and its position in the code.

        Args:
            marked: the function or class.
            expected: what would work.
            got: what was found instead. In the error, this text follows the name of the function or
                class, for example "is a class".
            advice: what to do; "" if that is obvious.

        """
        self.expected = expected
        self.got = got.removeprefix("is ")
        advice = f"; {advice}" if advice else ""
        super().__init__(
            f"{name_of(marked)}{file_and_line(marked)} {got}: expected {expected}{advice}"
        )


class Unresolved(Exception):  # noqa: N818 -- names what the annotation is
    """An annotation cannot be evaluated; the text of the error says why, and what to do."""


def annotation(function: Callable[..., object], name: str, written: Any) -> Any:
    """Return the type that an annotation names; None for the type None.

    Args:
        function: has the annotation.
        name: the name of the parameter, or "return".
        written: the annotation as Python stores it: a type, or a text that is evaluated with the
            names of the function's module.

    Raises:
        Unresolved: the text cannot be evaluated.

    """
    found = written
    if isinstance(written, str):
        holder = types.SimpleNamespace(__annotations__={"it": written})
        names = dict(namespace(function))
        try:
            found = typing.get_type_hints(holder, names, include_extras=True)["it"]
        except Exception as error:  # the text may raise any exception
            msg = (
                f"has the annotation '{name}: {written}', which cannot be evaluated"
                f" ({type(error).__name__}: {error});"
                " define or import it at the top of the module, outside of TYPE_CHECKING"
            )
            raise Unresolved(msg) from error
    if type(found).__name__ == "TypeAliasType":  # the statement `type Name = …` of Python 3.12
        found = found.__value__
    return None if found is type(None) else found


def namespace(function: Callable[..., object]) -> Mapping[str, Any]:
    """Return the names, with their objects, of the module that defines a function or class.

    Annotations of the function are evaluated with these names.
    """
    if isinstance(function, type):
        module = sys.modules.get(function.__module__)
        return vars(module) if module is not None else {}
    home: Any = inspect.unwrap(function)
    if isinstance(home, functools.partial):
        home = home.func
    if not hasattr(home, "__globals__"):
        home = type(home).__call__  # a callable object has its globals in the method __call__
    names: Mapping[str, Any] = getattr(home, "__globals__", {})
    return names


def name_of(marked: object) -> str:
    """Return the name that a function, class or annotation has in the code.

    For any other object, return the name of its class.
    """
    name = getattr(marked, "__qualname__", None)
    if isinstance(name, str):
        return name
    return str(marked) if typing.get_origin(marked) is not None else type(marked).__qualname__


def shown(found: Any) -> str:
    """Return an annotation as it is written in the code, for the texts of errors."""
    return found.__qualname__ if isinstance(found, type) else str(found)


def file_and_line(marked: object) -> str:
    """Return the text " (file:line)" for a function or class, or "" if its file is not known.

    For any other object, the text is that of its class. Texts of errors contain it after the name
    of the function or class.
    """
    try:
        home: Any = inspect.unwrap(marked) if callable(marked) else marked
        if not inspect.isroutine(home):
            home = home if isinstance(home, type) else type(home)
        file, line = inspect.getsourcefile(home), inspect.getsourcelines(home)[1]
    except (TypeError, OSError):
        return ""
    return f" ({file}:{line})"
