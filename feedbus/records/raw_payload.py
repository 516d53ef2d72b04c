"""A payload that is not a JSON object: a text or bytes, for exchanges with a content type."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedbus.wrong_argument import refuse

# Within feedbus and in the outbox, such a payload is a mapping with this single field.
RAW = "feedbus-raw"
BASE64 = "base64"
# If an exchange has a content type, the outbox has a mapping with this single field for each
# message: the base64 form of the body. The payload may have values that JSON cannot represent, but
# that the codec of the content type can encode.
BODY = "feedbus-body"


@dataclass(frozen=True, slots=True)
class Raw:
    """Text or bytes to publish unchanged: `bus.publish("legacy", Raw("hello"), key="k")`.

    The exchange must set `content_type`. A dict or an instance of a message type is published
    without Raw.

    Attributes:
        value: the text or the bytes.

    """

    value: str | bytes

    def __post_init__(self) -> None:
        """Raise TypeError for anything except str and bytes."""
        if not isinstance(self.value, str | bytes):
            refuse("value", "str or bytes", self.value)

    def fields(self) -> Mapping[str, Any]:
        """Return the content as a mapping that JSON can represent, with the single field RAW.

        The value of this field is the text. For bytes, it is a mapping with their base64 form.
        Within feedbus and in the outbox, a Raw payload has this form.
        """
        value = self.value
        return {
            RAW: value if isinstance(value, str) else {BASE64: base64.b64encode(value).decode()}
        }
