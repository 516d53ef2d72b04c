"""The base class of the types of the options in topology.toml."""

from __future__ import annotations

from typing import Any, NoReturn

from marshmallow import ValidationError, fields

from feedbus.config.problems import Fault, describe


class Option(fields.Field[Any]):
    """The base class of the types of options. A type reads, validates and documents a value.

    Each option of topology.toml has one object of such a type. The object is an attribute of a
    TableSchema, the class that describes one table of the file. So the object is created when the
    module with this class is imported.

    If read() refuses a value, its error contains a Fault (problems.py): the description of one
    problem of the file.
    """

    kind: str = "anything"  # the type of the value, for the documentation
    expected: str = "a value"  # the text after "expected" in errors
    pattern: str = ""  # a regular expression that each valid value matches; "" if there is none
    # Whether errors show only the kind of a wrong value, because it may be a secret.
    hidden: bool = False
    none: str = ""  # the value, as TOML text, for which read() returns None; "" if there is none
    example: Any = None  # an example that suits most options of this type, for editors

    def __init__(
        self,
        description: str,
        *,
        default: str = "",
        required: bool = False,
        attribute: str | None = None,
        example: Any = None,
    ) -> None:
        """Create the type of one option.

        Args:
            description: what the option means, in sentences; it may have links in Markdown.
            default: the default for the documentation, as TOML text or in words. If it is "", the
                documentation shows the default of the field in the dataclass of feedbus.topology.
            required: whether the file must set the option.
            attribute: the name of this field, if it differs from the option's name.
            example: an example for editors, if the example of the type does not fit.

        """
        super().__init__(
            required=required,
            attribute=attribute,
            metadata={"description": description, "default": default},
        )
        if example is not None:
            self.example = example

    def read(self, value: Any) -> Any:
        """Return a value of topology.toml, converted to the Python value of the option.

        marshmallow calls the method for each value that the file sets.

        Raises:
            ValidationError: the value is not allowed; the error contains one Fault.

        """
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        raise NotImplementedError

    def write(self, value: Any) -> str:
        """Return a Python value, such as a default, as TOML text, for the reference page."""
        return f'"{value}"' if isinstance(value, str) else describe(value)

    def refusal(self, expected: str = "", **options: Any) -> ValidationError:
        """Return the error of an invalid value; it contains one Fault.

        Args:
            expected: the expected value, in words. With "", the Fault gets the attribute `expected`
                of the type.
            options: other attributes of the Fault, such as `suggestion`.

        """
        return ValidationError(
            [Fault(expected=expected or self.expected, hidden=self.hidden, **options)]
        )

    def refuse(self, expected: str = "", **options: Any) -> NoReturn:
        """Raise the error of an invalid value of topology.toml; read() calls the method.

        Args:
            expected: the expected value, in words. With "", the Fault gets the attribute `expected`
                of the type.
            options: other attributes of the Fault, such as `suggestion`.

        Raises:
            ValidationError: always; it contains one Fault.

        """
        raise self.refusal(expected, **options)

    def make_error(self, key: str, **kwargs: Any) -> ValidationError:
        """Return the error of a missing value, the only error that marshmallow itself finds.

        marshmallow calls the method when the file does not set a required option. The arguments,
        with which marshmallow selects its own text, are not used.
        """
        del key, kwargs
        return self.refusal()

    def _deserialize(self, value: Any, attr: Any, data: Any, **kwargs: Any) -> Any:
        del attr, data, kwargs
        return self.read(value)
