"""How msgspec describes a message type: the fields of the type, and how its objects are created."""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from feedbus.handling.message_types.record_loader import UnfitMessageType

Described = inspect.StructType | inspect.DataclassType | inspect.TypedDictType


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message type, as msgspec describes it; determined once for each type.

    Attributes:
        key: the name of the field on the wire.
        name: the name of the field in the record.
        type: the type of its values.
        many: the type of a list of such values, by which a whole column is loaded.
        description: msgspec's description of the type.
        required: whether a record without the field is invalid.
        default: the value for a record without the field; NODEFAULT if there is no such value.
        factory: creates the value for a record without the field; NODEFAULT if there is no factory.
    """

    key: str
    name: str
    type: Any
    many: Any
    description: inspect.Type
    required: bool
    default: Any
    factory: Any


def describe_type(declared: Any) -> Sequence[Described]:
    """Return msgspec's description of a type, or of each type of a union.

    Raises:
        UnfitMessageType: a JSON object cannot be read as this type.

    """
    expected = "a type that JSON can be read as"
    try:
        info = inspect.type_info(declared)
        msgspec.json.Decoder(declared)
    except Exception as error:
        raise UnfitMessageType(expected, f"{declared!r:.100}: {error}") from error
    found = info.types if isinstance(info, inspect.UnionType) else (info,)
    for each in found:
        if not isinstance(each, Described) or getattr(each, "array_like", False):
            expected = "a dataclass, a msgspec.Struct, a pydantic model, dict, str or bytes"
            raise UnfitMessageType(expected, f"{declared!r:.100}")
        for field in each.fields:
            custom = _custom(field.type, set())
            if custom is not None:
                got = f"{custom!r:.100} of the field '{field.name}'"
                raise UnfitMessageType(expected, got)
    return [each for each in found if isinstance(each, Described)]


def _custom(info: Any, seen: set[int]) -> object:
    """Return a nested type that msgspec cannot create from JSON, or None.

    Args:
        info: msgspec's description of a type.
        seen: the ids of the descriptions that were examined, because types may be recursive.

    """
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, inspect.CustomType | inspect.ExtType | inspect.RawType):
        return getattr(info, "cls", info)
    parts = [getattr(info, name) for name in getattr(info, "__struct_fields__", ())]
    for part in parts:
        for each in part if isinstance(part, tuple) else (part,):
            if isinstance(each, inspect.Type | inspect.Field):
                found = _custom(each, seen)
                if found is not None:
                    return found
    return None


def common_names(described: Sequence[Described]) -> Sequence[str]:
    """Return the names of the fields that all types of a union have."""
    return _common([[field.name for field in each.fields] for each in described])


def common_wire_names(described: Sequence[Described]) -> Sequence[str]:
    """Return the names on the wire of the fields that all types of a union have."""
    return _common([_wire_names(each) for each in described])


def _wire_names(described: Described) -> Sequence[str]:
    tag = getattr(described, "tag_field", None)
    return [*([tag] if tag else []), *(field.encode_name for field in described.fields)]


def _common(names: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the names that each of the lists has."""
    return [name for name in names[0] if all(name in each for each in names)]


def fields_of(declared: Any, described: Described) -> Sequence[Field] | None:
    """Return the fields of a class; None if their types depend on a generic class's arguments."""
    if typing.get_origin(declared) is not None:
        return None
    types = typing.get_type_hints(declared, include_extras=True)
    return [
        Field(
            each.encode_name,
            each.name,
            kind := _bare(types[each.name]),
            list[kind],  # type: ignore[valid-type]
            each.type,
            each.required,
            each.default,
            each.default_factory,
        )
        for each in described.fields
    ]


def _bare(annotation: Any) -> Any:
    """Return the type of a TypedDict's field without Required or NotRequired."""
    marks = (typing.Required, typing.NotRequired, typing.ClassVar)
    while typing.get_origin(annotation) in marks:
        annotation = typing.get_args(annotation)[0]
    return annotation


def maker_of(declared: Any, described: Described) -> Callable[[dict[str, Any]], Any] | None:
    """Return a function that creates a record from valid fields.

    None if only msgspec can create it: for example, if __post_init__ must be called.
    """
    if hasattr(declared, "__post_init__"):
        return None
    if isinstance(described, inspect.StructType):
        return None if described.tag is not None else lambda row: declared(**row)
    if not isinstance(described, inspect.DataclassType):
        return None
    # object.__setattr__ also works for a frozen class. __init__ is not called, as msgspec does not
    # call it either.
    assign = object.__setattr__

    def make(row: dict[str, Any]) -> Any:
        instance = object.__new__(declared)
        for name, value in row.items():
            assign(instance, name, value)
        return instance

    return make
