"""The types of special values, such as URLs and commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Any

from feedbus.config.base_option import Option
from feedbus.config.option_types import DOTTED, Dotted, Text
from feedbus.name_list import nearest
from feedbus.urls import UrlError


class Url(Text):
    """The type of an option whose value is the URL of a broker, its management API or a store.

    Errors never contain the URL, because it can contain a password.
    """

    kind = "URL"
    hidden = True

    def __init__(
        self, description: str, parse: Callable[[str], Any], *schemes: str, **options: Any
    ) -> None:
        """Create the type with the parser of the URL and the allowed schemes.

        Args:
            description: what the option means, in sentences.
            parse: returns the parsed URL, or raises UrlError.
            schemes: the allowed schemes, such as "amqp".
            options: the keyword arguments of Option, such as `default`.

        """
        super().__init__(description, **options)
        self.parse, self.schemes = parse, schemes
        self.expected = (
            f"a URL that begins with {'://, '.join(schemes[:-1])}:// or {schemes[-1]}://"
        )

    def read(self, value: Any) -> Any:
        """Check a value of topology.toml, and return the parsed URL.

        Raises:
            ValidationError: the parser of the URL does not accept the value.

        """
        if not isinstance(value, str):
            self.refuse()
        try:
            return self.parse(value)
        except UrlError as error:
            refused = error
        suggestion = nearest(refused.name, refused.known) if refused.name else ""
        if suggestion in self.schemes:
            suggestion += "://"
        raise self.refusal(refused.expected, got=refused.got, suggestion=suggestion)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "pattern": rf"^({'|'.join(self.schemes)})://|\$\{{"}


class Adapter(Dotted):
    """The type of the option `adapter` of [store]: the library with which the store is used.

    The value is the name of one of feedbus's own adapters, or a dotted name.
    """

    def __init__(self, description: str, *own: str, **options: Any) -> None:
        """Create the type with the names of feedbus's own adapters.

        Args:
            description: what the option means, in sentences.
            own: the names of feedbus's own adapters, such as "peewee".
            options: the keyword arguments of Option, such as `default`.

        """
        super().__init__(description, **options)
        self.own = own
        self.expected = f"{', '.join(map(repr, own))} or {Dotted.expected}"
        self.kind = ", ".join(f'`"{name}"`' for name in own) + f" or {Dotted.kind}"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is the name of an adapter, and return the name.

        The name of an adapter is one of feedbus's own names, or a dotted name.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if value in self.own:
            return str(value)
        if not isinstance(value, str) or not DOTTED.fullmatch(value):
            self.refuse(suggestion=nearest(value, self.own) if isinstance(value, str) else "")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        dotted = super().schema()
        return {"type": dotted.pop("type"), "anyOf": [{"enum": list(self.own)}, dotted]}


class ExceptionName(Option):
    """The type of an option whose value is the dotted name of an exception class."""

    kind = "exception, `ValueError` or `module.Name`"
    example = "httpx.TransportError"
    expected = "the dotted name of an exception, such as 'ValueError' or 'httpx.TransportError'"
    pattern = r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is the dotted name of an exception; return the name.

        The class is not imported; other_imports.check_other_imports() checks it later.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "pattern": r"^[^\s:]+(:[^\s:]+)?$|\$\{"}


class Command(Option):
    """The type of an option whose value is a command line, or an array of its words."""

    kind = "text or array of texts"
    example = "python -m web"
    hidden = True
    expected = 'a command such as "python -m web" or an array of its words'

    def read(self, value: Any) -> tuple[str, ...]:
        """Check a value of topology.toml, and return the words of the command.

        A text is split into words as by a shell; an array has the words.

        Raises:
            ValidationError: the value is not valid, or has no words; the error contains one Fault.

        """
        if isinstance(value, str):
            try:
                words = shlex.split(value)
            except ValueError as error:
                self.refuse(f"{self.expected} ({str(error).lower()})")
        elif isinstance(value, list) and all(isinstance(word, str) for word in value):
            words = value
        else:
            self.refuse()
        if not words or not words[0] or any("\0" in word for word in words):
            self.refuse()
        return tuple(words)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        words = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        text = {"type": "string", "minLength": 1}
        return {"type": ["string", "array"], "anyOf": [text, words]}


class Setting(Option):
    """The type of the value of an environment variable; it may be empty."""

    kind = "text"
    hidden = True
    expected = "a text"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a text without NUL, and return the text.

        An empty text is accepted.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or "\0" in value:
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string"}


class EnvironmentName(Text):
    """The type of the name of an environment variable."""

    expected = "a variable's name of letters, digits and '_'"
    pattern = "[A-Za-z_][A-Za-z0-9_]*"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a variable's name, and return the name.

        A variable's name has only letters, digits and '_', and does not begin with a digit.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value


class ShardNumber(Text):
    """The type of the number of a shard as a key in TOML: a text of digits."""

    expected = "the number of a shard"
    pattern = "0|[1-9][0-9]{0,4}"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is the number of a shard, and return it as a text.

        A number of a shard is a text of 1 to 5 digits, because keys in TOML are texts.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value


class OrderBy(Option):
    """The type of the option `order_by`: true (the routing key), the name of a field, or false."""

    kind = "text, or true or false"
    example = "customer"
    expected = "the name of a field, true for the routing key, or false"

    def read(self, value: Any) -> str | bool:
        """Check that a value of topology.toml is valid for `order_by`, and return the value.

        Valid values are the name of a field (a text that is not empty), True and False.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not (isinstance(value, bool) or (isinstance(value, str) and value.strip())):
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": ["boolean", "string"], "minLength": 1}
