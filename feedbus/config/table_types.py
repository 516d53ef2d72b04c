"""The types of arrays, of tables with fixed keys, and of tables whose keys users choose."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from marshmallow import RAISE, Schema, ValidationError

from feedbus.config.base_option import Option
from feedbus.config.key_paths import KeyPath
from feedbus.config.option_types import Name
from feedbus.config.problems import Fault, Report, describe, unknown

# Matches a link in Markdown. Editors show descriptions as plain text, so only the link's text is
# kept for them.
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class TableSchema(Schema):
    """The base of the schemas of tables with fixed keys in topology.toml.

    A subclass has one attribute for each option. load_table() loads a table with an object of the
    subclass.

    Attributes:
        builds: the dataclass for the values, with the defaults of the options; None if there is
            none.
        what: the kind of a key in errors, such as "option".

    """

    builds: ClassVar[type | None] = None
    what: ClassVar[str] = "option"

    class Meta:
        """marshmallow's settings of the schema: it refuses unknown keys."""

        unknown = RAISE

    def refused(self, error: ValidationError, value: Mapping[str, Any]) -> dict[Any, Any]:
        """Return the errors of a table by key: marshmallow's, and a fault for each unknown key.

        load_table() calls the method when marshmallow has found an error in the table.

        Args:
            error: the error of marshmallow.
            value: the table, as topology.toml contains it.

        """
        names = list(self.load_fields)
        errors = dict(error.messages_dict)
        for key in value:
            if key not in self.load_fields:
                errors[key] = [unknown(self.what, key, names)]
        return errors


def load_table(schema: TableSchema, value: Any) -> dict[str, Any]:
    """Check a table of topology.toml, and return its loaded values by option.

    Args:
        schema: the schema of the table.
        value: the table, as topology.toml contains it.

    Raises:
        ValidationError: the value is no table, or has faults; the error has all of them.

    """
    if not isinstance(value, dict):
        raise ValidationError([Fault(expected="a table", hidden=True)])
    try:
        loaded: dict[str, Any] = schema.load(value)
    except ValidationError as error:
        errors = schema.refused(error, value)
        raise ValidationError(errors, valid_data=error.valid_data) from None
    return loaded


class Table(Option):
    """The type of an option that is a table with fixed keys."""

    kind = "table"
    expected = "a table"
    hidden = True

    def __init__(self, table: type[TableSchema], description: str, **options: Any) -> None:
        """Create the type with the schema of the table.

        Args:
            table: the schema of the table.
            description: what the option means, in sentences.
            options: the keyword arguments of Option, such as `default`.

        """
        super().__init__(description, **options)
        self.table = table()

    def read(self, value: Any) -> dict[str, Any]:
        """Check a table of topology.toml, and return its values by option.

        Raises:
            ValidationError: the value is no table, or has faults; the error has all of them.

        """
        if not isinstance(value, dict) and self.metadata["default"].startswith("{"):
            expected = f"a table such as {self.metadata['default']}"
            raise ValidationError([Fault(expected=expected, hidden=True)])
        return load_table(self.table, value)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return table_schema(self.table)


# Keys in marshmallow's errors: NAMED for an error in an entry's name, HELD for one in its value.
NAMED, HELD = object(), object()
ARTICLES = {"array": "an", "table": "a"}


class Many(Option):
    """The base of the types Array and Tables: all entries of the value have one type."""

    container: ClassVar[str]
    hidden = True

    def __init__(
        self, entry: Option, description: str, *, of: str, empty: bool = True, **options: Any
    ) -> None:
        """Create the type of one option.

        Args:
            entry: the type of the entries.
            description: what the option means, in sentences; it may have links in Markdown.
            of: the name of the entries in errors, such as "durations".
            empty: whether the array or table may be empty.
            options: default, required, attribute and example of Option.

        """
        super().__init__(description, **options)
        self.entry, self.empty = entry, empty
        self.kind = f"{self.container} of {of}"
        self.expected = f"{ARTICLES[self.container]} {self.kind}"
        self.expected += "" if empty else ", at least one"

    def collect(self, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
        """Return the loaded entries of an array or table, by their index or name.

        read() of the subclasses calls the method.

        Args:
            pairs: the index or name of each entry, and its value in topology.toml.

        Raises:
            ValidationError: some values are invalid; the error has all faults, by index or name.

        """
        loaded: dict[Any, Any] = {}
        errors: dict[Any, Any] = {}
        for key, value in pairs:
            try:
                loaded[key] = self.entry.read(value)
            except ValidationError as error:
                errors[key] = error.messages
                if isinstance(error.valid_data, dict):  # the later checks use the valid options
                    loaded[key] = error.valid_data
        if errors:
            raise ValidationError(errors, valid_data=loaded)
        return loaded


class Array(Many):
    """The type of an option that is an array of values of one type."""

    container = "array"

    def read(self, value: Any) -> tuple[Any, ...]:
        """Check an array of topology.toml, and return its values in order.

        Raises:
            ValidationError: the value is no array, or has faults; the error has all of them, by
                index.

        """
        if not isinstance(value, list) or not (value or self.empty):
            self.refuse()
        try:
            loaded = self.collect(enumerate(value))
        except ValidationError as error:
            # Without `valid_data`, marshmallow leaves the array out of the loaded table. The
            # `valid_data` of collect() maps indexes to values, but the later checks expect a tuple.
            raise ValidationError(error.messages) from None
        return tuple(loaded.values())

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "array", "items": option_schema(self.entry)} | (
            {} if self.empty else {"minItems": 1}
        )

    def write(self, value: Any) -> str:
        """Return Python values, such as a default, as a TOML array, for the reference page."""
        return f"[{', '.join(map(self.entry.write, value))}]"


class Tables(Many):
    """The type of an option that is a table whose keys are names that users choose."""

    container = "table"

    def __init__(
        self, entry: Option, description: str, *, keys: Option | None = None, **options: Any
    ) -> None:
        """Create the type of one option.

        Args:
            entry: the type of the values.
            description: what the option means, in sentences; it may have links in Markdown.
            keys: the type of the names; a Name by default.
            options: `of` and `empty` of Many; default, required, attribute and example of Option.

        """
        super().__init__(entry, description, **options)
        self.keys = keys or Name("")

    def read(self, value: Any) -> dict[str, Any]:
        """Check a table of topology.toml whose keys users choose; return its values by key.

        Raises:
            ValidationError: the value is no table, or has faults in keys or values; the error has
                all of them.

        """
        if not isinstance(value, dict) or not (value or self.empty):
            self.refuse()
        errors: dict[str, Any] = {}
        loaded: dict[str, Any] = {}
        try:
            loaded = self.collect(value.items())
        except ValidationError as error:
            errors = dict(error.messages_dict)
            loaded = error.valid_data if isinstance(error.valid_data, dict) else {}
        for key in value:
            try:
                self.keys.read(key)
            except ValidationError:
                fault = Fault(expected=self.keys.expected, got=describe(key), at_key=True)
                errors[key] = {NAMED: [fault], HELD: errors.get(key, [])}
        if errors:
            raise ValidationError(errors, valid_data=loaded)
        return loaded

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        entries = {"type": "object", "additionalProperties": option_schema(self.entry)}
        if self.keys.pattern:
            entries["propertyNames"] = {"pattern": f"^({self.keys.pattern})$"}
        return entries if self.empty else {**entries, "minProperties": 1}


def options_of(table: TableSchema) -> dict[str, Option]:
    """Return the options of a table by name, from the schema of the table."""
    fields = table.load_fields.items()
    return {name: field for name, field in fields if isinstance(field, Option)}


def default_of(table: TableSchema, name: str) -> str:
    """Return the text that the reference page and the JSON Schema show as an option's default.

    Args:
        table: the schema of the option's table.
        name: the name of the option.

    Returns:
        The default as TOML text or in words; "" if the option has none. If another option makes it
            necessary to set the option, the text is, for example, "needed by peewee".

    """
    option = options_of(table)[name]
    described: str = option.metadata["default"]
    if described or option.required or table.builds is None:
        return described
    defaults = {field.name: field.default for field in dataclasses.fields(table.builds)}
    default = defaults.get(option.attribute or name)
    if default is None:
        return option.none
    if default is dataclasses.MISSING:
        return ""
    return "{}" if isinstance(default, Mapping) else option.write(default)


def table_schema(table: TableSchema) -> dict[str, Any]:
    """Return the JSON Schema of a table of topology.toml, for `feedbus schema`.

    Args:
        table: the schema object that declares the options of the table.

    """
    options = options_of(table)
    properties = {
        name: option_schema(option, default_of(table, name)) for name, option in options.items()
    }
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    required = [name for name, option in options.items() if option.required]
    return {**schema, "required": required} if required else schema


def option_schema(option: Option, default: str = "") -> dict[str, Any]:
    """Return the JSON Schema of an option with its description, default and example.

    Args:
        option: an option of a table, or the type of the entries of an array or table.
        default: the default in TOML's notation, or in words; "" if there is none.

    """
    described = option.schema()
    description = LINK.sub(r"\1", option.metadata["description"])
    try:
        described["default"] = tomllib.loads(f"it = {default}")["it"]
    except tomllib.TOMLDecodeError:
        description += f" Default: {default}." if default else ""
    if option.example is not None:
        described["examples"] = [option.example]
    return described | {"description": description}


def spread(errors: Any, report: Report, path: KeyPath = ()) -> None:
    """Add every fault in nested errors of marshmallow to the report.

    Args:
        errors: the messages of a ValidationError: mappings and lists with Fault objects.
        report: gets the faults.
        path: the keys and indexes of the value in topology.toml to which the errors belong.

    """
    if isinstance(errors, Mapping):
        for key, inner in errors.items():
            spread(inner, report, path if key in {NAMED, HELD} else (*path, key))
    else:
        for fault in errors:
            report.add(path, fault)
