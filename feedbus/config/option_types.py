"""The types of the options in topology.toml: each type reads, validates and documents a value."""

from __future__ import annotations

import re
from typing import Any

from feedbus import units
from feedbus.config.base_option import Option
from feedbus.name_list import nearest

# Matches the dotted name of a Python object: package.module:name.
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
LARGEST = 2**63 - 1  # the largest signed integer of 64 bits
# The JSON Schema of a text with a variable ${VAR}, whose value an editor does not know.
SUBSTITUTED = {"pattern": r"\$\{"}


class Text(Option):
    """The type of an option whose value is a text that is not empty."""

    kind = "text"
    expected = "a text that is not empty"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a text, and return the text.

        A text that is empty or contains NUL is refused.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "minLength": 1}


class Name(Text):
    """The type of an option whose value is a name.

    The name must be valid on the broker, as a file name and on a command line.
    """

    kind = "name"
    expected = "a name of letters, digits, '_', '-' and '.', that does not begin with '-' or '.'"
    pattern = "[A-Za-z0-9_][A-Za-z0-9_.-]*"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a name, and return the name.

        A name has only letters, digits, '_', '-' and '.', and does not begin with '-' or '.'.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "pattern": rf"^{self.pattern}$|\$\{{"}


class Dotted(Text):
    """The type of an option whose value is the dotted name of a Python object: `package:name`."""

    kind = "dotted name, `package.module:name`"
    example = "app:handler"
    expected = "a dotted name such as 'package.module:name'"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a dotted name, and return the name.

        The form of a dotted name is `package.module:name`. This method does not import the object;
        handler_imports.check_imports() checks the object later.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not DOTTED.fullmatch(value):
            guess = ":".join(value.rsplit(".", 1)) if isinstance(value, str) else ""
            self.refuse(suggestion=guess if DOTTED.fullmatch(guess) else "")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "pattern": r"^[^:]+:[^:]+$|\$\{"}


class Flag(Option):
    """The type of an option whose value is true or false."""

    kind = "true or false"
    expected = "true or false"

    def read(self, value: Any) -> bool:
        """Check that a value of topology.toml is true or false, and return the value.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, bool):
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "boolean"}


class Whole(Option):
    """The type of an option whose value is an integer within bounds, or "unlimited" if allowed."""

    def __init__(
        self,
        description: str,
        *,
        minimum: int = 1,
        maximum: int = LARGEST,
        unlimited: bool = False,
        **options: Any,
    ) -> None:
        """Create the type of one option.

        Args:
            description: what the option means, in sentences; it may have links in Markdown.
            minimum: the smallest integer: 0 or 1.
            maximum: the largest integer.
            unlimited: whether the option also allows the value "unlimited".
            options: default, required, attribute and example of Option.

        """
        super().__init__(description, **options)
        self.minimum, self.maximum, self.unlimited = minimum, maximum, unlimited
        self.expected = "a positive integer" if minimum else "an integer of 0 or more"
        self.kind = "positive integer" if minimum else "integer from 0"
        self.kind += f", at most {maximum:,}" if maximum < LARGEST else ""
        if unlimited:
            self.none = '"unlimited"'
            self.expected += f" or {self.none}"
            self.kind += f" or `{self.none}`"

    def read(self, value: Any) -> int | None:
        """Check a value of topology.toml; return the integer, or None for "unlimited".

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if self.unlimited and value == "unlimited":
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < self.minimum:
            self.refuse()
        if value > self.maximum:
            self.refuse(f"at most {self.maximum:,}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        integer: dict[str, Any] = {"type": "integer", "minimum": self.minimum}
        if self.maximum < LARGEST:
            integer["maximum"] = self.maximum
        if not self.unlimited:
            return integer
        return {"type": ["integer", "string"], "anyOf": [integer, {"const": "unlimited"}]}


class Duration(Option):
    """The type of an option whose value is a duration such as "90s", or "never" if allowed."""

    example = "30s"

    def __init__(
        self, description: str, *, zero: bool = False, never: bool = False, **options: Any
    ) -> None:
        """Create the type of one option.

        Args:
            description: what the option means, in sentences; it may have links in Markdown.
            zero: whether the option also allows the duration 0.
            never: whether the option also allows the value "never".
            options: default, required, attribute and example of Option.

        """
        super().__init__(description, **options)
        self.zero, self.never = zero, never
        self.expected = 'a duration such as "500ms", "20s" or "1h30m"'
        self.kind = "duration"
        if never:
            self.none = '"never"'
            self.expected += f" or {self.none}"
            self.kind += f" or `{self.none}`"

    def read(self, value: Any) -> float | None:
        """Check a value of topology.toml; return the duration in seconds, or None for "never".

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if self.never and value == "never":
            return None
        seconds = units.read_duration(value) if isinstance(value, str) else None
        if seconds is None:
            self.refuse(suggestion=units.guess_duration(value))
        if seconds > units.LONGEST_SECONDS:
            self.refuse(f"a duration of at most {units.write_duration(units.LONGEST_SECONDS)}")
        if seconds < 0.001 and not (self.zero and seconds == 0):  # noqa: PLR2004 -- 1 ms
            self.refuse("a duration of at least 1ms" + (' or "never"' if self.never else ""))
        return seconds

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        pattern = r"^([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?([0-9.]+ms)?$|\$\{"
        return {
            "type": "string",
            "minLength": 2,
            "pattern": pattern + ("|^never$" if self.never else ""),
        }

    def write(self, value: Any) -> str:
        """Return a number of seconds as the text of a duration, as topology.toml contains it."""
        return f'"{units.write_duration(value)}"'


class Size(Option):
    """The type of an option whose value is a number of bytes with its unit, or "unlimited"."""

    none = '"unlimited"'
    kind = f"size or `{none}`"
    example = "512MB"
    expected = 'a size such as "512MB" or "1GB", or "unlimited"'

    def read(self, value: Any) -> int | None:
        """Check a value of topology.toml; return the size in bytes, or None for "unlimited".

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if value == "unlimited":
            return None
        size = units.read_size(value) if isinstance(value, str) else None
        if size is None:
            self.refuse(suggestion=units.guess_size(value))
        if not 0 < size <= units.LARGEST_BYTES:
            self.refuse('a size from "1B" to "1024TiB", or "unlimited"')
        return size

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "pattern": r"^[0-9.]+([KMGT]i?)?B$|^unlimited$|\$\{"}


class Choice(Option):
    """The type of an option whose value is one of a few fixed names."""

    def __init__(self, description: str, *choices: str, **options: Any) -> None:
        """Create the type with the allowed names.

        Args:
            description: what the option means, in sentences.
            choices: the allowed names.
            options: the keyword arguments of Option, such as `default`.

        """
        super().__init__(description, **options)
        self.choices = choices
        quoted = [f"'{choice}'" for choice in choices]
        self.expected = f"{', '.join(quoted[:-1])} or {quoted[-1]}"
        self.kind = ", ".join(f'`"{choice}"`' for choice in choices)

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is one of the fixed names, and return the name.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or value not in self.choices:
            self.refuse(suggestion=nearest(value, self.choices) if isinstance(value, str) else "")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string", "anyOf": [{"enum": list(self.choices)}, SUBSTITUTED]}
