"""A payload that is not a JSON object: a text or bytes, for exchanges with a content type."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedbus.errors import UsageError
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


def raw_content(fields: Mapping[str, Any]) -> str | bytes:
    """Return the text or the bytes of a mapping that Raw.fields() has returned.

    Args:
        fields: a mapping with the field RAW.

    Raises:
        UsageError: a publisher has used the name RAW for a field of its own.

    """
    value = fields[RAW]
    if isinstance(value, Mapping) and set(value) == {BASE64}:
        value = decode_base64(RAW, value[BASE64])
    if len(fields) == 1 and isinstance(value, str | bytes):
        return value
    raise _reserved(RAW)


def decode_base64(field: str, text: object) -> bytes:
    """Return the bytes of a base64 text that feedbus has written into a reserved field.

    Args:
        field: the name of the field.
        text: the base64 text.

    Raises:
        UsageError: it is no base64 text, so a publisher has used the name for a field of its own.

    """
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError:
        raise _reserved(field) from None


def _reserved(field: str) -> UsageError:
    return UsageError(
        f"cannot publish: the field '{field}' is reserved for texts and bytes; publish Raw('…') or"
        " Raw(b'…'), or use another name"
    )
