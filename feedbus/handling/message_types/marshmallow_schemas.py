"""Marshmallow schemas as message types. Packs are loaded field by field, equal texts only once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from marshmallow import EXCLUDE, INCLUDE, RAISE, Schema, ValidationError, fields, missing, validate
from marshmallow.decorators import PRE_LOAD

from feedbus.errors import described
from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    UnfitMessageType,
    errors_of,
    loaded_rows,
)
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack

# Classes of fields whose values in JSON are texts. Equal texts give equal loaded values.
OF_TEXT = {fields.String, fields.DateTime, fields.AwareDateTime, fields.NaiveDateTime, fields.Date}
# At most this many unknown fields are reported. Each is reported for every record, and a pack may
# have thousands of records and of unknown fields.
UNKNOWN_NAMED = 10


@dataclass(frozen=True, slots=True)
class Column:
    """How to load one field of all records of a pack; determined once for each schema.

    Attributes:
        key: the name of the field on the wire.
        target: the name of the field in the loaded object.
        declared: the field of the schema.
        bounds: for a field of integers, the smallest and the largest valid integer; infinite if
            there is no limit. None if the field has another type, or other validators than one
            inclusive Range.
    """

    key: str
    target: str
    declared: fields.Field[Any]
    bounds: tuple[float, float] | None


class SchemaLoader(RecordLoader):
    """Loads records as dicts by a marshmallow schema.

    Args:
        schema: the class of the schema.

    Raises:
        UnfitMessageType: the schema, or a schema nested in it, cannot be created.
    """

    def __init__(self, schema: type[Schema]) -> None:
        """Create the loader, with one instance of the schema for all records.

        To create an instance takes longer than to load a record.

        Raises:
            UnfitMessageType: the schema cannot be created.

        """
        try:
            self._schema = schema()
        except Exception as error:  # also exceptions of the schema's own code
            expected = "a marshmallow schema that can be created without arguments"
            raise UnfitMessageType(expected, f"{schema.__name__}: {described(error)}") from error
        _check_nested(self._schema, set())
        self._columns = _columns(self._schema)

    @property
    def name(self) -> str:
        """The name of the schema."""
        return type(self._schema).__name__

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one record on the wire; its definitions are in `$defs`."""
        from feedbus.handling.message_types.marshmallow_json_schema import json_schema

        return json_schema(self._schema)

    def wire_fields(self) -> Sequence[str] | None:
        """Return the names of the fields on the wire; None if there may be other fields, too.

        A hook that runs before loading can read any field.
        """
        schema = self._schema
        if schema.unknown == INCLUDE or schema._hooks.get(PRE_LOAD):  # noqa: SLF001 -- as in _columns()
            return None
        return [wire_name(name, field) for name, field in schema.load_fields.items()]

    def _load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack.

        The records are loaded by column if fields are independent of each other, otherwise one by
        one.

        Args:
            pack: the decoded records.

        Returns:
            The valid records, and the errors of the others.
        """
        schema, declared = self._schema, self._columns
        if declared is None:
            return _load_rows(schema, pack)
        errors: Errors = {}
        shared: dict[str, Any] = {}
        columns: dict[str, Sequence[Any]] = {}
        for column in declared:
            key = column.key
            if key in pack.columns:
                columns[column.target] = _load_column(column, pack.columns[key], errors)
                continue
            value = pack.shared.get(key, missing)
            value = _load_value(column.declared, key, value, len(pack), errors)
            if value is not missing:
                shared[column.target] = value
        if schema.unknown == RAISE:
            _refuse_unknown(schema, {column.key for column in declared}, pack, errors)
        chunk = Chunk(pack.ids, shared, columns, range(len(pack)))
        if errors:
            chunk = chunk.select([index for index in range(len(pack)) if index not in errors])
        return Loaded(chunk, errors)


def _check_nested(schema: Schema, seen: set[type[Schema]]) -> None:
    """Create the nested schemas now, so that mistakes in them are found before the first load.

    Args:
        schema: the schema that contains them.
        seen: the classes of schemas that were checked, because schemas may be recursive.

    Raises:
        UnfitMessageType: a nested schema does not exist, or cannot be created.

    """
    seen.add(type(schema))
    for name, declared in schema.fields.items():
        for nested in _nested(declared):
            try:
                inner = nested.schema
            except Exception as error:  # also exceptions of the schema's own code
                expected = "nested schemas that exist and can be created"
                got = f"{type(schema).__name__} with the field '{name}': {described(error)}"
                raise UnfitMessageType(expected, got) from error
            if type(inner) not in seen:
                _check_nested(inner, seen)


def _nested(declared: fields.Field[Any]) -> Iterator[fields.Nested]:
    """Yield the nested fields in a field: the field itself, or the items of a collection."""
    if isinstance(declared, fields.Nested):
        yield declared
    elif isinstance(declared, fields.List):
        yield from _nested(declared.inner)
    elif isinstance(declared, fields.Tuple):
        for each in declared.tuple_fields:
            yield from _nested(each)
    elif isinstance(declared, fields.Mapping) and declared.value_field is not None:
        yield from _nested(declared.value_field)


def wire_name(name: str, declared: fields.Field[Any]) -> str:
    """Return the name of a field on the wire: its data_key, or its name in the schema."""
    return name if declared.data_key is None else declared.data_key


def _columns(schema: Schema) -> Sequence[Column] | None:
    """Return how to load each field; None if records can only be loaded one by one.

    Records are loaded one by one if the schema has hooks, rules for several fields, custom fields,
    or defaults that a function computes. The same is true if the schema keeps unknown fields, or
    loads a field into a nested dict, such as `attribute="address.city"`.
    """
    plain = all(
        type(declared).__module__ == fields.__name__
        and "." not in (declared.attribute or "")
        and not (declared.load_default is not missing and callable(declared.load_default))
        for declared in schema.load_fields.values()
    )
    if not plain or any(schema._hooks.values()) or schema.unknown not in {RAISE, EXCLUDE}:  # noqa: SLF001 -- marshmallow has no other way to ask
        return None
    return [
        Column(
            wire_name(name, declared),
            declared.attribute or name,
            declared,
            _bounds(declared),
        )
        for name, declared in schema.load_fields.items()
    ]


def _bounds(declared: fields.Field[Any]) -> tuple[float, float] | None:
    """Return the smallest and the largest valid integer of a field, or None; see Column."""
    if type(declared) is not fields.Integer:
        return None
    bounds = (-math.inf, math.inf)
    for validator in declared.validators:
        if type(validator) is not validate.Range or bounds != (-math.inf, math.inf):
            return None
        if not (validator.min_inclusive and validator.max_inclusive):
            return None
        lowest, highest = cast("tuple[float | None, float | None]", (validator.min, validator.max))
        bounds = (
            -math.inf if lowest is None else lowest,
            math.inf if highest is None else highest,
        )
    return bounds


def _load_rows(schema: Schema, pack: Pack) -> Loaded:
    errors: Errors = {}
    rows: dict[int, Any] = {}
    for index in range(len(pack)):
        try:
            rows[index] = schema.load(pack.payload(index))
        except ValidationError as error:
            errors[index] = _texts(error.messages_dict)
        except BaseException as error:  # noqa: BLE001 -- a schema's own hooks may raise anything
            errors[index] = errors_of(error)
    if not all(isinstance(row, dict) for row in rows.values()):  # the result of a @post_load
        names = [field.attribute or name for name, field in schema.load_fields.items()]
        return loaded_rows(pack, rows, names, errors)
    indexes = list(rows)
    ids = pack.ids.select(indexes)
    if len(pack) == 1:
        return Loaded(Chunk(ids, rows.get(0, {}), {}, indexes), errors)
    # Because of a hook, only some records may have a field. The field is then None in the others.
    names = list({name: None for row in rows.values() for name in row})
    columns = {name: [row.get(name) for row in rows.values()] for name in names}
    return Loaded(Chunk(ids, {}, columns, indexes), errors)


def _load_column(column: Column, values: Sequence[Any], errors: Errors) -> Sequence[Any]:
    declared, key, types = column.declared, column.key, set(map(type, values))
    if column.bounds is not None and types == {int}:
        lowest, highest = column.bounds
        if lowest <= min(values) and max(values) <= highest:
            return values  # the most frequent case; it needs no loop in Python
    if types == {str} and type(declared) in OF_TEXT:
        return _load_texts(declared, key, values, errors)
    loaded: list[Any] = []
    for index, value in enumerate(values):
        try:
            loaded.append(declared.deserialize(value, key, {key: value}))
        except BaseException as error:  # noqa: BLE001 -- a validator may raise anything
            loaded.append(None)
            _note(errors, index, key, error)
    return loaded


def _load_texts(
    declared: fields.Field[Any], key: str, values: Sequence[str], errors: Errors
) -> Sequence[Any]:
    """Return the loaded values; each different text is loaded once, because texts often repeat."""
    loaded: dict[str, Any] = dict.fromkeys(values)
    failed: dict[str, BaseException] = {}
    for text in loaded:
        try:
            loaded[text] = declared.deserialize(text, key, {key: text})
        except BaseException as error:  # noqa: BLE001 -- a validator may raise anything
            failed[text] = error
    if failed:
        for index, text in enumerate(values):
            if text in failed:
                _note(errors, index, key, failed[text])
    return [loaded[text] for text in values]


def _load_value(
    declared: fields.Field[Any], key: str, value: object, count: int, errors: Errors
) -> object:
    """Return the loaded value that all records of a pack share; `missing` if there is none.

    Args:
        declared: the field.
        key: the name of the field on the wire.
        value: the value in the pack; `missing` if no record has the field. Then a default is used.
        count: the number of records in the pack.
        errors: an error of the value is added for each record.

    """
    try:
        return declared.deserialize(value, key, {} if value is missing else {key: value})
    except BaseException as error:  # noqa: BLE001 -- a validator may raise anything
        for index in range(count):
            _note(errors, index, key, error)
        return missing


def _refuse_unknown(schema: Schema, known: set[str], pack: Pack, errors: Errors) -> None:
    unknown = [key for key in (*pack.shared, *pack.columns) if key not in known]
    for key in unknown[:UNKNOWN_NAMED]:
        for index in range(len(pack)):
            errors.setdefault(index, {})[key] = [schema.error_messages["unknown"]]


def _note(errors: Errors, index: int, key: str, error: BaseException) -> None:
    texts = error.messages if isinstance(error, ValidationError) else errors_of(error)[""]
    errors.setdefault(index, {})[key] = _flatten(texts)


def _texts(messages: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return marshmallow's errors of one record as lists of texts, by the names of the fields.

    The name "" stands for the whole record.
    """
    return {("" if field == "_schema" else field): _flatten(m) for field, m in messages.items()}


def _flatten(messages: object) -> list[str]:
    if isinstance(messages, dict):
        return [f"{key}: {text}" for key, inner in messages.items() for text in _flatten(inner)]
    if isinstance(messages, list | tuple):
        return [text for inner in messages for text in _flatten(inner)]
    return [str(messages)]
