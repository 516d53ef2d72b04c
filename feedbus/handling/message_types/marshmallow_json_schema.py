"""The JSON Schema of the records that a marshmallow schema loads."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from marshmallow import RAISE, Schema, fields, missing, validate

# The JSON Schema of each class of fields. For a subclass, its nearest base class is used.
KINDS: Mapping[type[fields.Field[Any]], Mapping[str, Any]] = {
    fields.UUID: {"type": "string", "format": "uuid"},
    fields.Email: {"type": "string", "format": "email"},
    fields.Url: {"type": "string", "format": "uri"},
    fields.IPv4: {"type": "string", "format": "ipv4"},
    fields.IPv6: {"type": "string", "format": "ipv6"},
    fields.DateTime: {"type": "string", "format": "date-time"},
    fields.Date: {"type": "string", "format": "date"},
    fields.Time: {"type": "string", "format": "time"},
    fields.String: {"type": "string"},
    fields.Boolean: {"type": "boolean"},
    fields.Integer: {"type": "integer"},
    fields.Decimal: {"type": ["number", "string"]},
    fields.Number: {"type": "number"},
    fields.TimeDelta: {"type": "number"},
    fields.Mapping: {"type": "object"},
    fields.List: {"type": "array"},
    fields.Tuple: {"type": "array"},
    fields.Raw: {},
}
DESCRIBED = ("title", "description", "examples")  # keys of a field's metadata that are copied


@dataclass(frozen=True, slots=True)
class Definition:
    """The JSON Schema of one marshmallow schema, which other schemas refer to by its name.

    Attributes:
        name: its name in `$defs`.
        schema: the JSON Schema.
    """

    name: str
    schema: dict[str, Any]


# Maps the result of _identity() for a marshmallow schema to the definition of this schema.
Definitions = dict[Hashable, Definition]


def json_schema(schema: Schema) -> dict[str, Any]:
    """Return the JSON Schema of a record; nested schemas are in `$defs`.

    marshmallow converts some values, for example a text of digits for an Integer. Such a field is
    described by the type after the conversion. Checks in Python code (hooks, functions as
    validators, custom fields) have no counterpart in JSON Schema, and are left out.

    Args:
        schema: the schema whose fields are described.

    """
    definitions: Definitions = {}
    name = _define(schema, definitions)
    schemas = {each.name: each.schema for each in definitions.values()}
    return {"$ref": f"#/$defs/{name}", "$defs": schemas}


def _identity(schema: Schema) -> Hashable:
    """Return a value that is equal for two schemas if they have the same definition.

    Schemas of one class can load different fields. Also, the options `only` and `exclude` of a
    schema can restrict the fields of a nested schema. marshmallow copies these options to the field
    that contains the nested schema.
    """
    restrictions = [
        (name, *(_frozen(getattr(field, option, None)) for option in ("only", "exclude")))
        for name, field in schema.load_fields.items()
    ]
    return type(schema), schema.unknown, schema.partial is True, tuple(restrictions)


def _frozen(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def _define(schema: Schema, definitions: Definitions) -> str:
    """Add the definition of a schema, if it is missing; return the name of the definition."""
    identity = _identity(schema)
    if identity in definitions:
        return definitions[identity].name
    name = type(schema).__name__
    if schema.only is not None or schema.exclude:  # it uses only some fields of its class
        name = f"{name}_{'_'.join(schema.load_fields)}"
    taken = {each.name for each in definitions.values()}
    possible_names = chain([name], (f"{name}_{number}" for number in count(2)))
    name = next(each for each in possible_names if each not in taken)
    found: dict[str, Any] = {"type": "object", "title": type(schema).__name__}
    # A nested schema can contain its parent. So the definition is added without fields at first.
    definitions[identity] = Definition(name, found)
    properties, required = {}, []
    for field_name, field in schema.load_fields.items():
        key = field_name if field.data_key is None else field.data_key
        properties[key] = _property(field, definitions)
        if field.required and schema.partial is not True:
            required.append(key)
    found["properties"] = properties
    if required:
        found["required"] = required
    if schema.unknown == RAISE:
        found["additionalProperties"] = False
    return name


def _property(field: fields.Field[Any], definitions: Definitions) -> dict[str, Any]:
    found = _kind(field, definitions)
    for validator in field.validators:
        found |= _limits(validator, found.get("type"))
    if field.allow_none and found:
        found = {"anyOf": [found, {"type": "null"}]}
    found |= {key: field.metadata[key] for key in DESCRIBED if key in field.metadata}
    default = field.load_default
    if default is not missing and not callable(default) and _is_json(default):
        found["default"] = default
    return found


def _kind(field: fields.Field[Any], definitions: Definitions) -> dict[str, Any]:
    """Return the JSON Schema of a field's values; {} if any value is possible."""
    if isinstance(field, fields.Nested):
        return _nested(field, definitions)
    if isinstance(field, fields.Enum):
        values = [member.value if field.by_value else member.name for member in field.enum]
        return {"enum": values} if _is_json(values) else {}
    found = dict(next((KINDS[kind] for kind in type(field).__mro__ if kind in KINDS), {}))
    if isinstance(field, fields.List):
        found["items"] = _property(field.inner, definitions)
    elif isinstance(field, fields.Tuple):
        found |= {"minItems": len(field.tuple_fields), "maxItems": len(field.tuple_fields)}
    elif isinstance(field, fields.Mapping) and field.value_field is not None:
        found["additionalProperties"] = _property(field.value_field, definitions)
    elif isinstance(field, fields.DateTime) and field.format not in {None, "iso", "iso8601"}:
        found = {"type": "number" if str(field.format).startswith("timestamp") else "string"}
    return found


def _nested(field: fields.Nested, definitions: Definitions) -> dict[str, Any]:
    if isinstance(field, fields.Pluck):
        found = _property(field.schema.load_fields[field.field_name], definitions)
    else:
        found = {"$ref": f"#/$defs/{_define(field.schema, definitions)}"}
    return {"type": "array", "items": found} if field.many or field.schema.many else found


def _limits(validator: Any, kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of a validator; {} for an unknown validator.

    Args:
        validator: a validator of a marshmallow field.
        kind: the type in the JSON Schema of this field, such as "array".

    """
    if isinstance(validator, validate.Range):
        low_key = "minimum" if validator.min_inclusive else "exclusiveMinimum"
        high_key = "maximum" if validator.max_inclusive else "exclusiveMaximum"
        limits: dict[str, Any] = {low_key: validator.min, high_key: validator.max}
    elif isinstance(validator, validate.Length):
        suffix = "Items" if kind == "array" else "Properties" if kind == "object" else "Length"
        low = validator.min if validator.equal is None else validator.equal
        high = validator.max if validator.equal is None else validator.equal
        limits = {f"min{suffix}": low, f"max{suffix}": high}
    elif isinstance(validator, validate.OneOf):
        limits = {"enum": list(validator.choices)}
    elif isinstance(validator, validate.Equal):
        limits = {"const": validator.comparable}
    else:
        return {}
    return {key: value for key, value in limits.items() if value is not None and _is_json(value)}


def _is_json(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_json, value))
    return value is None or isinstance(value, str | bool | int | float)
