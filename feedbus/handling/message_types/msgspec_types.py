"""Message types that msgspec validates: Structs, dataclasses, TypedDicts, and unions of them."""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import NODEFAULT, ValidationError, convert, inspect

from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    UnfitMessageType,
    errors_of,
    loaded_rows,
)
from feedbus.name_list import listed
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack

MISSING = "missing required field"
UNKNOWN = "unknown field"
# At most this many unknown fields are reported. Each is reported for every record, and a pack may
# have thousands of records and of unknown fields.
UNKNOWN_NAMED = 10
INVALID_ENUM = "invalid enum value"
VALUES_NAMED = 10  # at most this many allowed values of an enum or a Literal are listed
_POSITION = re.compile(r" - at `(?:key in )?\$(.*)`$")  # the position at the end of an error
_STEP = re.compile(r"\.[^.\[]+|\[[^\]]*\]")  # a step of such a position

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


class MsgspecLoader(RecordLoader):
    """Loads instances of a Struct or a dataclass, or dicts of a TypedDict.

    Args:
        declared: the Struct, dataclass or TypedDict, or a union of such types.

    Raises:
        UnfitMessageType: msgspec cannot load objects of this type from JSON.
    """

    def __init__(self, declared: Any) -> None:
        """Create the loader of a class, which is inspected once.

        Raises:
            UnfitMessageType: msgspec cannot load the class from a JSON object.

        """
        self._type = declared
        described = _described(declared)
        self._names = _names(described)
        self._fields = _fields(declared, described[0]) if len(described) == 1 else None
        self._strict = getattr(described[0], "forbid_unknown_fields", False)
        self._make = _maker(declared, described[0]) if self._fields is not None else None
        self._dicts = isinstance(described[0], inspect.TypedDictType)

    @property
    def name(self) -> str:
        """The name of the class; for a union, the names with "Or" between them."""
        return "Or".join(kind.cls.__name__ for kind in _described(self._type))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one record on the wire; its definitions are in `$defs`."""
        return msgspec.json.schema(self._type)

    def wire_fields(self) -> Sequence[str]:
        """Return the names of the fields on the wire; of a union, the names that all types have."""
        return _common([_wire_names(each) for each in _described(self._type)])

    def _load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack.

        Records of a TypedDict are loaded by column. Records of another class are loaded by column
        if the pack has several records, and if feedbus can create the objects without msgspec (see
        _maker()). Otherwise msgspec loads the records one by one. It also does so for each union
        and each generic class.

        Args:
            pack: the decoded records.

        Returns:
            The valid records, and the errors of the others.
        """
        by_column = self._dicts or (self._make is not None and len(pack) > 1)
        if self._fields is None or not by_column:
            return self._load_rows(pack)
        return self._load_columns(self._fields, pack)

    def _load_rows(self, pack: Pack) -> Loaded:
        rows: dict[int, Any] = {}
        errors: Errors = {}
        for index in range(len(pack)):
            payload = pack.payload(index)
            try:
                rows[index] = convert(payload, self._type, str_keys=True)
            except ValidationError as error:
                errors[index] = self._errors(payload) or _located(error, self._type)
            except BaseException as error:  # noqa: BLE001 -- __post_init__ may raise anything
                errors[index] = self._errors(payload) or errors_of(error)
        return loaded_rows(pack, rows, self._names, errors)

    def _errors(self, payload: Mapping[str, Any]) -> dict[str, list[str]]:
        """Return the errors of all fields of one record; msgspec itself stops at the first error.

        The result is empty if the fields of the type are not known, or if each field is valid by
        itself.
        """
        if self._fields is None:
            return {}
        return self._load_columns(self._fields, single_of(payload)).errors.get(0, {})

    def _load_columns(self, fields: Sequence[Field], pack: Pack) -> Loaded:
        count, errors = len(pack), Errors()
        shared: dict[str, Any] = {}
        columns: dict[str, Sequence[Any]] = {}
        for field in fields:
            if field.key in pack.columns:
                columns[field.name] = _column(field, pack.columns[field.key], errors)
            elif field.key in pack.shared:
                shared[field.name] = _shared(field, pack.shared[field.key], count, errors)
            elif field.required:
                _note_all(errors, count, field.key, MISSING)
            elif field.factory is not NODEFAULT:
                columns[field.name] = _made(field, count, errors)
            elif field.default is not NODEFAULT:
                shared[field.name] = field.default
        if self._strict:
            known = {field.key for field in fields}
            unknown = [key for key in (*pack.shared, *pack.columns) if key not in known]
            for key in unknown[:UNKNOWN_NAMED]:
                _note_all(errors, count, key, UNKNOWN)
        chunk = Chunk(pack.ids, shared, columns, range(count), self._make)
        if errors:
            chunk = chunk.select([index for index in range(count) if index not in errors])
        return Loaded(chunk, errors)


def single_of(payload: Mapping[str, Any]) -> Pack:
    """Return a pack of one record with these fields; its message id is "".

    Such a pack is loaded to find the errors of each field of an invalid record.
    """
    return Pack.numbered("", [""], payload, {})


def _column(field: Field, values: Sequence[Any], errors: Errors) -> Sequence[Any]:
    """Return the loaded values of a column, with None for invalid values; add their errors."""
    try:
        found: list[Any] = convert(values, field.many, str_keys=True)
    except BaseException:  # noqa: BLE001 -- found again when the values are converted one by one
        found = []
        for index, value in enumerate(values):
            try:
                found.append(convert(value, field.type, str_keys=True))
            except BaseException as error:  # noqa: BLE001 -- a __post_init__ may raise anything
                found.append(None)
                errors.setdefault(index, {})[field.key] = _texts(error, field.description)
    return found


def _made(field: Field, count: int, errors: Errors) -> Sequence[Any]:
    """Return the values that the factory of a field creates, one for each record."""
    found: list[Any] = []
    for index in range(count):
        try:
            found.append(field.factory())
        except BaseException as error:  # noqa: BLE001 -- the code of the project can raise anything
            found.append(None)
            errors.setdefault(index, {})[field.key] = _texts(error, field.description)
    return found


def _shared(field: Field, value: Any, count: int, errors: Errors) -> Any:
    try:
        return convert(value, field.type, str_keys=True)
    except BaseException as error:  # noqa: BLE001 -- a __post_init__ may raise anything
        _note_all(errors, count, field.key, *_texts(error, field.description))
        return None


def _note_all(errors: Errors, count: int, key: str, *texts: str) -> None:
    for index in range(count):
        errors.setdefault(index, {})[key] = [*texts]


def _texts(error: BaseException, description: inspect.Type) -> list[str]:
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


def _located(error: ValidationError, declared: Any) -> dict[str, list[str]]:
    """Return the error of a whole record, under the field that the error names, or under "".

    Args:
        error: the error.
        declared: the message type.

    """
    position = _POSITION.search(str(error))
    field = re.match(r"\.([^.\[]+)", position.group(1)) if position else None
    text = _text(error, inspect.type_info(declared))
    return {field.group(1): [text.partition(": ")[2] or text]} if field else {"": [text]}


def _described(declared: Any) -> Sequence[Described]:
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


def _names(described: Sequence[Described]) -> Sequence[str]:
    """Return the names of the fields that all types of a union have."""
    return _common([[field.name for field in each.fields] for each in described])


def _wire_names(described: Described) -> Sequence[str]:
    tag = getattr(described, "tag_field", None)
    return [*([tag] if tag else []), *(field.encode_name for field in described.fields)]


def _common(names: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return the names that each of the lists has."""
    return [name for name in names[0] if all(name in each for each in names)]


def _fields(declared: Any, described: Described) -> Sequence[Field] | None:
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


def _maker(declared: Any, described: Described) -> Callable[[dict[str, Any]], Any] | None:
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
