"""Find the message type that an annotation or the argument of the decorator declares."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, MutableMapping
from typing import Any

import marshmallow
import msgspec

from feedbus.handling.message_types.marshmallow_schemas import SchemaLoader
from feedbus.handling.message_types.msgspec_types import MsgspecLoader
from feedbus.handling.message_types.pydantic_models import PydanticLoader, is_pydantic
from feedbus.handling.message_types.record_loader import RecordLoader, UnfitMessageType
from feedbus.handling.message_types.unvalidated_types import BodyLoader, DictLoader

UNTYPED = {inspect.Parameter.empty, Any, object, dict, Mapping, MutableMapping}
EXPECTED = (
    "a dataclass, a msgspec.Struct, a pydantic model, a marshmallow schema, dict, str or bytes"
)


def loader_of(declared: Any) -> RecordLoader:
    """Return a new object that validates and loads the records of a message type.

    Args:
        declared: the message type: a class or an annotation.

    Raises:
        UnfitMessageType: feedbus cannot load records of this type.
    """
    if _is_untyped(declared):
        return DictLoader()
    if declared in (str, bytes):
        return BodyLoader(declared)
    if isinstance(declared, type) and issubclass(declared, marshmallow.Schema):
        return SchemaLoader(declared)
    if is_pydantic(declared):
        return PydanticLoader(declared)
    if _is_of_msgspec(declared):
        return MsgspecLoader(declared)
    advice = ""
    if isinstance(declared, marshmallow.Schema):
        advice = f"write @handler({type(declared).__name__}), the class"
    shown = declared.__name__ if isinstance(declared, type) else f"{declared!r:.100}"
    raise UnfitMessageType(EXPECTED, shown, advice)


def _is_untyped(declared: Any) -> bool:
    origin = typing.get_origin(declared) or declared
    try:
        return origin in UNTYPED
    except TypeError:  # an object that cannot be hashed is not a type
        return False


def _is_of_msgspec(declared: Any) -> bool:
    origin = typing.get_origin(declared)
    if origin in {typing.Union, types.UnionType}:
        return True
    kind = declared if origin is None else origin
    return isinstance(kind, type) and (
        issubclass(kind, msgspec.Struct)
        or dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
    )
