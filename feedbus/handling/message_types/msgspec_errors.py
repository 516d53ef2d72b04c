"""The errors of msgspec, as feedbus reports them for each field of a record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import ValidationError, inspect

from feedbus.handling.message_types.msgspec_descriptions import Described
from feedbus.handling.message_types.record_loader import errors_of
from feedbus.name_list import listed

INVALID_ENUM = "invalid enum value"
VALUES_NAMED = 10  # at most this many allowed values of an enum or a Literal are listed
_POSITION = re.compile(r" - at `(?:key in )?\$(.*)`$")  # the position at the end of an error
_STEP = re.compile(r"\.[^.\[]+|\[[^\]]*\]")  # a step of such a position


def error_texts(error: BaseException, description: inspect.Type) -> list[str]:
    """Return the error of a field's value, in a list.

    Args:
        error: the error.
        description: msgspec's description of the type of the field.

    """
    if isinstance(error, ValidationError):
        return [_text(error, description)]
    return errors_of(error)[""]


def _text(error: ValidationError, description: inspect.Type) -> str:
    """Return the text of an error. It begins with the position of the error within the value.

    The error of an enum or a Literal lists the allowed values, which msgspec does not list.

    Args:
        error: the error.
        description: msgspec's description of the type of the value.

    """
    text = str(error)
    position = _POSITION.search(text)
    text = _POSITION.sub("", text).replace("`", "")
    text = text[:1].lower() + text[1:]
    path = position.group(1) if position else ""
    if text.startswith(INVALID_ENUM):
        allowed = list(dict.fromkeys(_allowed(description, _STEP.findall(path))))
        text += f": expected one of {listed(allowed, VALUES_NAMED)}" if allowed else ""
    within = path.removeprefix(".")
    return f"{within}: {text}" if within else text


def _allowed(description: inspect.Type, steps: Sequence[str]) -> Iterator[str]:
    """Yield the allowed values of an enum or a Literal, as Python writes them.

    Args:
        description: msgspec's description of a type.
        steps: the path from a value of this type to the value that is an enum or a Literal.

    """
    for found in _reached(description, steps):
        if isinstance(found, inspect.LiteralType):
            yield from map(repr, found.values)
        elif isinstance(found, inspect.EnumType):
            yield from (repr(member.value) for member in found.cls)


def _reached(description: inspect.Type, steps: Sequence[str]) -> Iterator[inspect.Type]:
    """Yield the types that a value at a path can have; of a union, each type.

    Args:
        description: msgspec's description of a type.
        steps: the path from a value of this type.

    """
    following: Sequence[inspect.Type] = ()
    if isinstance(description, inspect.UnionType):
        for each in description.types:
            yield from _reached(each, steps)
    elif not steps:
        yield description
    elif isinstance(description, Described):
        fields = description.fields
        following = [each.type for each in fields if f".{each.encode_name}" == steps[0]]
    else:  # the items of a list, or the values of a dict
        names = ("item_type", "value_type")
        following = [getattr(description, name) for name in names if hasattr(description, name)]
    for each in following:
        yield from _reached(each, steps[1:])


def located_errors(error: ValidationError, declared: Any) -> dict[str, list[str]]:
    """Return the error of a whole record, under the field that the error names, or under "".

    Args:
        error: the error.
        declared: the message type.

    """
    position = _POSITION.search(str(error))
    field = re.match(r"\.([^.\[]+)", position.group(1)) if position else None
    text = _text(error, inspect.type_info(declared))
    return {field.group(1): [text.partition(": ")[2] or text]} if field else {"": [text]}
