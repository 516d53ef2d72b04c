"""The types of values that are sent to the broker, such as routing keys and arguments."""

from __future__ import annotations

import math
import re
from typing import Any

from feedbus.config.base_option import Option
from feedbus.config.option_types import Text
from feedbus.config.problems import LONG_BITS

LONGEST_KEY_BYTES = 255
# With this limit, the declaration of a queue with all its arguments fits into one frame of AMQP.
LONGEST_ARGUMENT_BYTES = 1024


class RoutingKey(Option):
    """The type of an option whose value is a routing key or a binding key; it may be empty."""

    kind = "text"
    example = "mail.eu"
    expected = f"a routing key of at most {LONGEST_KEY_BYTES} bytes, without NUL"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a routing key or a binding key; return it.

        The key is a text of at most 255 bytes without the character NUL, and may be empty.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or "\0" in value:
            self.refuse()
        if len(value.encode()) > LONGEST_KEY_BYTES:
            self.refuse()
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": "string"}


class ShortText(Text):
    """The base class of types whose values are AMQP's short strings: texts of 1 to 255 bytes."""

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a text of 1 to 255 bytes, and return the text.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        text = super().read(value)
        if len(text.encode()) > LONGEST_KEY_BYTES:
            self.refuse()
        return text


class BrokerName(ShortText):
    """The type of an option whose value is the whole name of an exchange or queue on the broker."""

    example = "erp.events"
    expected = f"a name of 1 to {LONGEST_KEY_BYTES} bytes"


class ArgumentName(ShortText):
    """The type of the name of an argument for the broker, such as "x-max-priority"."""

    expected = f"an argument's name of at most {LONGEST_KEY_BYTES} bytes"


class ContentType(Text):
    """The type of an option whose value is a MIME type, with or without parameters."""

    example = "application/x-protobuf"
    expected = "a content type such as 'application/x-protobuf'"
    pattern = r"[a-zA-Z0-9!#$&^_.+-]+/[a-zA-Z0-9!#$&^_.+-]+( *;[ -~]*)?"

    def read(self, value: Any) -> str:
        """Check that a value of topology.toml is a content type, and return the content type.

        The content types that only feedbus itself uses are not valid.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            self.refuse()
        if len(value) > LONGEST_KEY_BYTES or "vnd.feedbus." in value:
            self.refuse()
        return value


class Argument(Option):
    """The type of the value of an argument that a queue or an exchange has on the broker.

    AMQP must be able to represent the value.
    """

    kind = "argument"
    expected = "a text, an integer, a number, true or false"

    def read(self, value: Any) -> Any:
        """Check that a value of topology.toml is valid for an argument, and return the value.

        Valid values are texts of at most 1,024 bytes, integers of 64 bits, finite numbers, true and
        false.

        Raises:
            ValidationError: the value is not valid; the error contains one Fault.

        """
        if not isinstance(value, str | int | float):
            self.refuse()
        if isinstance(value, int) and value.bit_length() > LONG_BITS:
            self.refuse("an integer of 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            self.refuse("a finite number")
        if isinstance(value, str) and len(value.encode()) > LONGEST_ARGUMENT_BYTES:
            self.refuse(f"a text of at most {LONGEST_ARGUMENT_BYTES:,} bytes")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the option's value in topology.toml, for `feedbus schema`."""
        return {"type": ["string", "integer", "number", "boolean"]}
