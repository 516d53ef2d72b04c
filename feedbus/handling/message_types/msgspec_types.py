"""Message types that msgspec validates: Structs, dataclasses, TypedDicts, and unions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, ValidationError, convert, inspect

from feedbus.handling.message_types.msgspec_descriptions import (
    Field,
    common_names,
    common_wire_names,
    describe_type,
    fields_of,
    maker_of,
)
from feedbus.handling.message_types.msgspec_errors import error_texts, located_errors
from feedbus.handling.message_types.record_loader import (
    Errors,
    Loaded,
    RecordLoader,
    errors_of,
    loaded_rows,
)
from feedbus.records.batch import Chunk
from feedbus.records.packs import Pack

MISSING = "missing required field"
UNKNOWN = "unknown field"
# At most this many unknown fields are reported. Each is reported for every record, and a pack may
# have thousands of records and of unknown fields.
UNKNOWN_NAMED = 10


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
        described = describe_type(declared)
        self._names = common_names(described)
        self._fields = fields_of(declared, described[0]) if len(described) == 1 else None
        self._strict = getattr(described[0], "forbid_unknown_fields", False)
        self._make = maker_of(declared, described[0]) if self._fields is not None else None
        self._dicts = isinstance(described[0], inspect.TypedDictType)

    @property
    def name(self) -> str:
        """The name of the class; for a union, the names with "Or" between them."""
        return "Or".join(kind.cls.__name__ for kind in describe_type(self._type))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of one record on the wire; its definitions are in `$defs`."""
        return msgspec.json.schema(self._type)

    def wire_fields(self) -> Sequence[str]:
        """Return the names of the fields on the wire; of a union, the names that all types have."""
        return common_wire_names(describe_type(self._type))

    def _load(self, pack: Pack) -> Loaded:
        """Validate and load the records of a pack.

        Records of a TypedDict are loaded by column. Records of another class are loaded by column
        if the pack has several records, and if feedbus can create the objects without msgspec (see
        maker_of()). Otherwise msgspec loads the records one by one. It also does so for each union
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
                errors[index] = self._errors(payload) or located_errors(error, self._type)
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
                errors.setdefault(index, {})[field.key] = error_texts(error, field.description)
    return found


def _made(field: Field, count: int, errors: Errors) -> Sequence[Any]:
    """Return the values that the factory of a field creates, one for each record."""
    found: list[Any] = []
    for index in range(count):
        try:
            found.append(field.factory())
        except BaseException as error:  # noqa: BLE001 -- the code of the project can raise anything
            found.append(None)
            errors.setdefault(index, {})[field.key] = error_texts(error, field.description)
    return found


def _shared(field: Field, value: Any, count: int, errors: Errors) -> Any:
    try:
        return convert(value, field.type, str_keys=True)
    except BaseException as error:  # noqa: BLE001 -- a __post_init__ may raise anything
        _note_all(errors, count, field.key, *error_texts(error, field.description))
        return None


def _note_all(errors: Errors, count: int, key: str, *texts: str) -> None:
    for index in range(count):
        errors.setdefault(index, {})[key] = [*texts]
