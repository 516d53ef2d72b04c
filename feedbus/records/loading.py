"""Validate a pack by its schema: what is shared once, what differs by its field alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, missing, validate

from feedbus.records import Chunk
from feedbus.records.packs import Pack

OF_TEXT = {fields.String, fields.DateTime, fields.AwareDateTime, fields.NaiveDateTime, fields.Date}
Errors = dict[int, dict[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A pack's valid records, and the errors by field of each record that is not."""

    chunk: Chunk
    errors: Errors


def load(schema: Schema, pack: Pack) -> Loaded:
    """Load a pack; the result is that of loading its records one by one.

    Values of a shared field are one object in all records.

    Args:
        schema: an instance, kept by the caller: making one costs more than loading.
        pack: the records as they travelled.

    """
    if len(pack) == 1 or not _by_field(schema):
        return _load_rows(schema, pack)
    errors: Errors = {}
    shared: dict[str, Any] = {}
    columns: dict[str, Sequence[Any]] = {}
    for name, declared in schema.load_fields.items():
        key = declared.data_key if declared.data_key is not None else name
        target = declared.attribute or name
        if key in pack.columns:
            columns[target] = _load_column(declared, key, pack.columns[key], errors)
            continue
        value = _load_value(declared, key, pack.shared.get(key, missing), len(pack), errors)
        if value is not missing:
            shared[target] = value
    _refuse_unknown(schema, pack, errors)
    chunk = Chunk(pack.ids, shared, columns, range(len(pack)))
    if errors:
        chunk = chunk.select([index for index in range(len(pack)) if index not in errors])
    return Loaded(chunk, errors)


def _by_field(schema: Schema) -> bool:
    """Whether each field stands alone: no hooks, no cross-field rules, no field of one's own."""
    plain = all(
        type(declared).__module__ == fields.__name__
        and "." not in (declared.attribute or "")
        and not (declared.load_default is not missing and callable(declared.load_default))
        for declared in schema.load_fields.values()
    )
    return plain and not any(schema._hooks.values()) and schema.unknown in {RAISE, EXCLUDE}  # noqa: SLF001 -- marshmallow tells it nowhere else


def _load_rows(schema: Schema, pack: Pack) -> Loaded:
    errors: Errors = {}
    rows: dict[int, dict[str, Any]] = {}
    for index in range(len(pack)):
        try:
            rows[index] = schema.load(pack.payload(index))
        except ValidationError as error:
            errors[index] = _texts(error.messages_dict)
        except RecursionError:
            errors[index] = {"": ["nested too deeply"]}
    places = list(rows)
    ids = pack.ids.select(places)
    if len(pack) == 1:
        return Loaded(Chunk(ids, rows.get(0, {}), {}, places), errors)
    names = {name for row in rows.values() for name in row}
    columns = {name: [row.get(name) for row in rows.values()] for name in names}
    return Loaded(Chunk(ids, {}, columns, places), errors)


def _load_column(
    declared: fields.Field[Any], key: str, values: Sequence[Any], errors: Errors
) -> Sequence[Any]:
    if _already_loaded(declared, values):
        return values
    if type(declared) in OF_TEXT and set(map(type, values)) == {str}:
        return _load_texts(declared, key, values, errors)
    loaded: list[Any] = []
    for index, value in enumerate(values):
        try:
            loaded.append(declared.deserialize(value, key, {key: value}))
        except ValidationError as error:
            loaded.append(None)
            _note(errors, index, key, error)
    return loaded


def _load_texts(
    declared: fields.Field[Any], key: str, values: Sequence[str], errors: Errors
) -> Sequence[Any]:
    """Load each distinct text once: what it becomes cannot be changed, and texts repeat."""
    loaded: dict[str, Any] = dict.fromkeys(values)
    failed: dict[str, ValidationError] = {}
    for text in loaded:
        try:
            loaded[text] = declared.deserialize(text, key, {key: text})
        except ValidationError as error:
            failed[text] = error
    if failed:
        for index, text in enumerate(values):
            if text in failed:
                _note(errors, index, key, failed[text])
    return [loaded[text] for text in values]


def _already_loaded(declared: fields.Field[Any], values: Sequence[Any]) -> bool:
    """Whether loading would return these very integers: the commonest column, at C speed."""
    if type(declared) is not fields.Integer:
        return False
    lowest: float | None = None
    highest: float | None = None
    for validator in declared.validators:
        if not (type(validator) is validate.Range and validator.min_inclusive):
            return False
        if not validator.max_inclusive or lowest is not None or highest is not None:
            return False
        lowest = cast("float | None", validator.min)
        highest = cast("float | None", validator.max)
    if set(map(type, values)) != {int}:
        return False
    return (lowest is None or min(values) >= lowest) and (highest is None or max(values) <= highest)


def _load_value(
    declared: fields.Field[Any], key: str, value: object, count: int, errors: Errors
) -> object:
    try:
        return declared.deserialize(value, key, {} if value is missing else {key: value})
    except ValidationError as error:
        for index in range(count):
            _note(errors, index, key, error)
        return missing


def _refuse_unknown(schema: Schema, pack: Pack, errors: Errors) -> None:
    if schema.unknown != RAISE:
        return
    known = {
        declared.data_key if declared.data_key is not None else name
        for name, declared in schema.load_fields.items()
    }
    unknown = [key for key in (*pack.shared, *pack.columns) if key not in known]
    for key in unknown:
        for index in range(len(pack)):
            errors.setdefault(index, {})[key] = [schema.error_messages["unknown"]]


def _note(errors: Errors, index: int, key: str, error: ValidationError) -> None:
    errors.setdefault(index, {})[key] = _flatten(error.messages)


def _texts(messages: Mapping[str, Any]) -> dict[str, list[str]]:
    return {("" if field == "_schema" else field): _flatten(m) for field, m in messages.items()}


def _flatten(messages: object) -> list[str]:
    if isinstance(messages, dict):
        return [f"{key}: {text}" for key, inner in messages.items() for text in _flatten(inner)]
    if isinstance(messages, list | tuple):
        return [text for inner in messages for text in _flatten(inner)]
    return [str(messages)]
