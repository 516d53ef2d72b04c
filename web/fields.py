"""Strict fields: numbers in texts are refused, and texts that a store would refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields, validate

from store import logins

LARGEST = 2**63 - 1
WHOLE = re.compile(r"[+-]?[0-9]{1,30}")


class Whole(fields.Integer):
    """The field of an integer in JSON: 1.0 is accepted as 1, and true is not a number."""

    default_error_messages = {"invalid": "Expected a whole number."}  # noqa: RUF012 -- marshmallow's

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            refusal = self.make_error("invalid", input=value)
            raise refusal
        return super()._deserialize(int(value), attr, data, **kwargs)


class WholeText(fields.Integer):
    """The field of an integer in a path or a query, where every value is a text."""

    default_error_messages = {"invalid": "Expected a whole number."}  # noqa: RUF012 -- marshmallow's

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if not WHOLE.fullmatch(value):
            refusal = self.make_error("invalid", input=value)
            raise refusal
        return super()._deserialize(value, attr, data, **kwargs)


class Flag(fields.Boolean):
    """The field of a value true or false; no other value is accepted."""

    default_error_messages = {"invalid": "Expected true or false."}  # noqa: RUF012 -- marshmallow's

    def _deserialize(
        self,
        value: Any,
        attr: str | None,  # noqa: ARG002 -- marshmallow's signature
        data: Mapping[str, Any] | None,  # noqa: ARG002 -- marshmallow's signature
        **kwargs: Any,  # noqa: ARG002 -- marshmallow's signature
    ) -> bool:
        if not isinstance(value, bool):
            refusal = self.make_error("invalid", input=value)
            raise refusal
        return value


class Text(fields.String):
    """The field of a text that every store can contain, and that UTF-8 can encode."""

    default_error_messages = {  # noqa: RUF012 -- marshmallow's
        "invalid": "Expected text.",
        "nul": "Must not contain the NUL character.",
        "surrogate": "Must not contain half of a surrogate pair.",
    }

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\0" in text:
            refusal = self.make_error("nul")
            raise refusal
        if any("\ud800" <= character <= "\udfff" for character in text):
            refusal = self.make_error("surrogate")
            raise refusal
        return text


class Login(Text):
    """The field of a login; it is loaded in the form in which it is stored and compared."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> str:
        return logins.normalized(super()._deserialize(value, attr, data, **kwargs))


class Shape(validate.Validator):
    """A validator: the whole text must match a pattern.

    Unlike marshmallow's Regexp, it refuses a newline at the end of the text.
    """

    def __init__(self, pattern: str, expected: str) -> None:
        """Create it with the pattern, and its description for errors."""
        self.regex = re.compile(pattern)  # the OpenAPI document finds its pattern here
        self.expected = expected

    def __call__(self, value: str) -> str:
        """Return the value, or raise ValidationError."""
        if not self.regex.fullmatch(value):
            msg = f"Expected {self.expected}."
            raise ValidationError(msg)
        return value
