"""Bodies that are not JSON objects: text, bytes, and content types of the project's codecs."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from feedbus.errors import InvalidBody, Outage, UsageError
from feedbus.handling.annotations import Unfit
from feedbus.handling.imported_objects import resolve_object
from feedbus.handling.message_types.record_loader import Reads
from feedbus.records.packs import Pack, decode, pack_of_one
from feedbus.records.payloads import (
    BODY_LIMIT_BYTES,
    check_size,
    encode_record,
    payload_text,
    text_of,
)
from feedbus.records.raw_payload import BODY, RAW, decode_base64, raw_content
from feedbus.wire.constants import PACK
from feedbus.wire.content_types import BYTES, bare_type, charset_of, is_known

if TYPE_CHECKING:
    from feedbus.topology import Exchange, Topology

UTF_8 = {"utf-8", "utf8", "us-ascii"}
EXPECTED = "a class, or an object, with decode(body, content_type, headers) and encode(payload)"


@runtime_checkable
class Codec(Protocol):
    """The interface of a project's codec, which decodes and encodes bodies that are not JSON.

    `[codecs]` in topology.toml names a class or object with it for each content type.
    """

    def decode(self, body: bytes, content_type: str, headers: Mapping[str, Any]) -> Any:
        """Return the content of a body: a mapping of fields, a text or bytes.

        feedbus calls it for each delivery with the content type, before the handler. If it raises
        an Outage, the consumer holds. After any other exception, the message becomes a dead letter.

        Args:
            body: the bytes of the message.
            content_type: the content type of the message.
            headers: the headers of the message.

        """

    def encode(self, payload: Any) -> bytes:
        """Return the body of a message that is published to an exchange with the content type.

        Args:
            payload: a mapping of fields, a text or bytes.

        """


def resolve_codec(dotted: str, root: Path) -> Codec:
    """Import a codec and return it; if it is a class, create an instance and return that.

    Args:
        dotted: the dotted name of the codec or class.
        root: the folder of topology.toml, from which modules of the project are imported.

    Raises:
        UsageError: the object cannot be imported, or is not a codec.

    """
    imported = codec = resolve_object(dotted, root)
    if isinstance(imported, type):
        try:
            codec = imported()
        except Exception as error:
            msg = f"{dotted} cannot be created: {type(error).__name__}: {error}"
            raise UsageError(msg) from error
    if not isinstance(codec, Codec):
        raise Unfit(imported, EXPECTED, f"is not a codec, but a {type(imported).__name__}")
    return codec


def reads_of(content_type: str) -> Reads:
    """Return to what bodies without a codec are decoded, by their content type.

    Args:
        content_type: the content type, with or without parameters.

    Returns:
        "object" (a mapping of fields, from JSON), "text" or "bytes".

    """
    bare = bare_type(content_type)
    if bare.startswith("text/"):
        return "text"
    return "object" if is_known(content_type) and bare != BYTES else "bytes"


@dataclass(frozen=True, slots=True)
class Codecs:
    """Reads and writes the bodies of a topology's messages.

    A bus and a consumer have one Codecs object each.

    Attributes:
        codecs: maps content types, without parameters, to the project's codecs.

    """

    codecs: Mapping[str, Codec]

    @classmethod
    def of(cls, topology: Topology) -> Codecs:
        """Import the codecs that a topology names in [codecs], and return them.

        Raises:
            UsageError: a codec cannot be imported, or is not a codec.

        """
        named = topology.codecs.items()
        return cls({bare_type(kind): resolve_codec(name, topology.root) for kind, name in named})

    def read(  # noqa: PLR0913 -- the parts of a message
        self,
        body: bytes,
        content_type: str | None,
        message_id: str,
        key: str,
        *,
        content_encoding: object = None,
        headers: Mapping[str, Any],
        reads: Reads = "object",
    ) -> Pack:
        """Return the records in a message's body, decoded by its codec if there is one.

        A consumer calls the method for each delivery.

        Args:
            body: the bytes of the message.
            content_type: the content type of the message; None if the publisher gave none.
            message_id: the id of a plain message.
            key: the routing key of a plain message.
            content_encoding: the property of the message: the encoding of the body's text.
            headers: the headers of the message, for a codec.
            reads: what the body is decoded to if there is no codec: "object" (a mapping of fields),
                "text" or "bytes".

        Raises:
            InvalidBody: the body does not match its content type.

        """
        codec = self.codecs.get(bare_type(content_type)) if content_type else None
        if content_type == PACK or (codec is None and reads == "object"):
            with _format_named(content_type, content_encoding, headers):
                return decode(body, content_type, message_id, key, content_encoding)
        if len(body) > BODY_LIMIT_BYTES:
            text = f"expected at most {BODY_LIMIT_BYTES} bytes, got {len(body)}"
            raise InvalidBody({"": [text]})
        value: Any = body
        if codec is not None:
            value = _decoded(codec, body, content_type or "", headers)
        elif reads == "text":
            with _format_named(content_type, content_encoding, headers):
                value = text_of(body, content_encoding or charset_of(content_type))
        return pack_of_one(message_id, key, value if isinstance(value, Mapping) else {RAW: value})

    def write(self, content_type: str, payload: Mapping[str, Any]) -> bytes:
        """Return the body for the payload of a record.

        Args:
            content_type: the content type of the exchange.
            payload: the record's fields. If the record is a text or bytes, which are published with
                Raw, the result of Raw.fields(). For a message from the outbox, the result of
                body_payload().

        Raises:
            UsageError: the content type cannot carry the payload.

        """
        if BODY in payload:
            return decode_base64(BODY, payload[BODY])
        bare = bare_type(content_type)
        codec = self.codecs.get(bare)
        value: Any = raw_content(payload) if RAW in payload else payload
        if codec is not None:
            return _encoded(codec, value)
        if isinstance(value, Mapping):
            if bare.startswith("text/") or bare == BYTES:
                msg = f"cannot publish: for {bare} expected Raw('…') or Raw(b'…'), got a mapping"
                raise UsageError(msg)
            return encode_record(value)
        try:
            return value.encode() if isinstance(value, str) else value
        except UnicodeEncodeError as error:
            msg = f"cannot publish: Raw: {error}"
            raise UsageError(msg) from error


class BodyEncoder:
    """Encodes records as bodies of plain messages, and refuses records that cannot be published.

    Each Encoder of a bus has one. The outbox has one, so that it refuses the same records.
    """

    def __init__(self, topology: Topology) -> None:
        """Create the object; the codecs of the topology are imported when they are needed."""
        self._topology = topology
        self._codecs: Codecs | None = None

    def encode(self, exchange: Exchange, payload: Mapping[str, Any]) -> bytes:
        """Return the body of a plain message for a record.

        It is called for each record that is published in a message of its own.

        Args:
            exchange: the exchange to which the record is published.
            payload: the fields of the record.

        Raises:
            UsageError: the record cannot be published.

        """
        if exchange.content_type is None:
            check_no_raw(exchange, payload)
            return encode_record(payload)
        if self._codecs is None:
            self._codecs = Codecs.of(self._topology)
        body = self._codecs.write(exchange.content_type, payload)
        check_size(body)
        return body

    def outbox_text(self, exchange: Exchange, payload: Mapping[str, Any]) -> str:
        """Return the text that the outbox stores for a record.

        Args:
            exchange: the exchange to which the record will be published.
            payload: the fields of the record.

        Raises:
            UsageError: the record cannot be published.

        """
        body = self.encode(exchange, payload)
        return body.decode() if exchange.content_type is None else payload_text(body_payload(body))


def check_no_raw(exchange: Exchange, fields: Collection[str]) -> None:
    """Raise UsageError if a record is a text or bytes: if it has the reserved field for these.

    This is called only for an exchange without `content_type`, which cannot carry such a record.

    Args:
        exchange: the exchange to which the record is published.
        fields: the names of the fields of the record.

    """
    if RAW in fields:
        msg = (
            f"cannot publish Raw(…) to exchange '{exchange.name}': set content_type in"
            f" [exchanges.{exchange.name}], or publish a mapping"
        )
        raise UsageError(msg)


def body_payload(body: bytes) -> Mapping[str, Any]:
    """Return the mapping that the outbox stores for a message with this body.

    It is used if the exchange has a content type. Codecs.write() returns the body again.
    """
    return {BODY: base64.b64encode(body).decode()}


@contextmanager
def _format_named(
    content_type: str | None, content_encoding: object, headers: Mapping[str, Any]
) -> Iterator[None]:
    """If the `with` block raises InvalidBody, add the format that the message declares to its text.

    The text then says that a codec can read the message. Nothing is added if the message declares
    JSON in UTF-8.

    Args:
        content_type: the content type of the message.
        content_encoding: the property of the message: the encoding of the body's text.
        headers: the headers of the message. Kombu writes the header `compression`.

    Raises:
        InvalidBody: the `with` block has raised it.

    """
    try:
        yield
    except InvalidBody as error:
        declared = {
            "content type": None if bare_type(content_type).endswith("json") else content_type,
            "content encoding": None
            if str(content_encoding).lower() in UTF_8
            else content_encoding,
            "compression": headers.get("compression"),
        }
        found = ", ".join(f"{name} {str(value)[:40]}" for name, value in declared.items() if value)
        reason = error.errors.get("", [""])[0]
        if not found or not reason.startswith("not ") or content_type == PACK:
            raise
        text = f"{reason[:60]}; the message has {found}: a codec in [codecs] can read it"
        raise InvalidBody({"": [text]}) from error


def _decoded(codec: Codec, body: bytes, content_type: str, headers: Mapping[str, Any]) -> Any:
    """Call Codec.decode; raise InvalidBody if it fails or returns a wrong type."""
    name = type(codec).__name__
    try:
        value = codec.decode(body, content_type, headers)
    except Outage:
        raise
    except Exception as error:
        text = f"{name}.decode raised {type(error).__name__}: {error}"
        raise InvalidBody({"": [text[:500]]}) from error
    if isinstance(value, Mapping | str | bytes):
        return value
    text = f"{name}.decode returned {type(value).__name__}: expected a mapping, str or bytes"
    raise InvalidBody({"": [text]})


def _encoded(codec: Codec, value: Any) -> bytes:
    """Call Codec.encode; raise UsageError if it fails or does not return bytes."""
    name = type(codec).__name__
    try:
        body = codec.encode(value)
    except Exception as error:
        msg = f"cannot publish: {name}.encode raised {type(error).__name__}: {error}"
        raise UsageError(msg) from error
    if not isinstance(body, bytes):
        msg = f"cannot publish: {name}.encode returned {type(body).__name__}: expected bytes"
        raise UsageError(msg)
    return body
