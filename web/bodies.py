"""Read the JSON body or the query of a request strictly, by a schema."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from email import utils
from email.message import Message
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import bottle
from marshmallow import Schema, ValidationError

from feedbus.operations.http_connections import BODY_BYTES, too_large
from feedbus.operations.responses import BAD_REQUEST, Errors, problem

MOST_PARAMETERS = 20


class MalformedError(ValueError):
    """A body is not valid JSON for this API; errors is keyed by field, "" is the whole body."""

    def __init__(self, detail: str, errors: Errors | None = None) -> None:
        """Create the error with the text for the sender of the request."""
        self.detail = detail
        self.errors = errors
        super().__init__(detail)


def read_body(schema: Schema) -> dict[str, Any]:
    """Return the request's JSON body as the schema loads it, or raise its problem document."""
    environ = bottle.request.environ
    check_content_type(environ.get("CONTENT_TYPE", ""))
    try:
        fields = parse(read_bytes(environ))
    except MalformedError as error:
        raise problem(BAD_REQUEST, error.detail, error.errors) from None
    return load(schema, fields, "The body does not have the fields that were expected.")


def read_query(schema: Schema) -> Mapping[str, Any]:
    """Return the query parameters as the schema loads them, or raise a problem document."""
    return _load_query(schema, bottle.request.environ.get("QUERY_STRING", ""))


@lru_cache(1000)  # most requests say what others said; what raises is looked at again
def _load_query(schema: Schema, raw: str) -> Mapping[str, Any]:
    try:
        pairs = parse_qsl(
            raw.encode("latin-1").decode("utf-8", "replace"),
            keep_blank_values=True,
            errors="replace",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError:
        detail = f"Expected at most {MOST_PARAMETERS} query parameters."
        raise problem(BAD_REQUEST, detail) from None
    try:
        fields = unique(pairs)
    except MalformedError as error:
        raise problem(BAD_REQUEST, error.detail, error.errors) from None
    return load(schema, fields, "The query parameters are not those that were expected.")


def load(schema: Schema, fields: Mapping[str, Any], detail: str) -> dict[str, Any]:
    """Load fields, or raise a problem document that names each wrong field."""
    try:
        loaded: dict[str, Any] = schema.load(fields)
    except ValidationError as error:
        raise problem(BAD_REQUEST, detail, by_field(error)) from None
    return loaded


def by_field(error: ValidationError) -> dict[str, list[str]]:
    """Return marshmallow's messages by field; "" is the whole input."""
    messages = error.normalized_messages()
    return {
        "" if field == "_schema" else str(field): list(texts) for field, texts in messages.items()
    }


def check_content_type(header: str) -> None:
    """Refuse a body without the content type of JSON, which a form of another site cannot send."""
    parsed = Message()
    parsed["Content-Type"] = header
    media_type = parsed.get_content_type()
    charsets = [
        utils.collapse_rfc2231_value(value)
        for name, value in parsed.get_params([])
        if name.lower() == "charset"
    ]
    if header and media_type == "application/json" and all(map(is_utf8, charsets)):
        return
    detail = f"Expected Content-Type: application/json, got {header or 'none'}."
    if media_type == "application/json":
        detail = f"Expected a body in UTF-8, the only charset of JSON here; got {header}."
    accept = [("Accept", "application/json")]
    raise problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, headers=accept)


def is_utf8(charset: str) -> bool:
    """Whether a charset is UTF-8, under any of its names, such as utf8."""
    try:
        return codecs.lookup(charset).name == "utf-8"
    except (LookupError, ValueError):
        return False


def read_bytes(environ: Mapping[str, Any]) -> bytes:
    """Read the body, at most one byte more than the limit.

    The stream of some servers ends only with the connection, so no more than the length is read.
    """
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isdecimal():
        detail = "Expected a body, with Content-Length or chunked."
        raise problem(HTTPStatus.LENGTH_REQUIRED, detail)
    body: bytes = environ["wsgi.input"].read(min(int(length), BODY_BYTES + 1))
    if len(body) > BODY_BYTES:
        raise problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large())
    return body


def parse(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; raise MalformedError also for JSON that parsers read differently."""
    try:
        parsed = json.loads(
            body.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant
        )
    except UnicodeDecodeError as error:
        detail = f"The body is not UTF-8: byte {error.start} cannot be decoded."
        raise MalformedError(detail) from None
    except json.JSONDecodeError as error:
        detail = f"The body is not JSON: {error.msg}, line {error.lineno} column {error.colno}."
        raise MalformedError(detail) from None
    except RecursionError:
        detail = "The body is nested too deeply."
        raise MalformedError(detail) from None
    except MalformedError:
        raise
    except ValueError:  # the interpreter's limit on digits
        detail = "The body holds a number that is too long."
        raise MalformedError(detail) from None
    if not isinstance(parsed, dict):
        detail = f"Expected a JSON object, got {name_of(parsed)}."
        raise MalformedError(detail)
    return parsed


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict; refuse a repeated name, because parsers differ on which value counts."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = {name: ["Given more than once."] for name, count in counts.items() if count > 1}
        detail = "A name is given more than once."
        raise MalformedError(detail, twice)
    return fields


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python accepts, but JSON does not have."""
    detail = f"The body is not JSON: {name} is not a JSON number."
    raise MalformedError(detail)


def name_of(value: Any) -> str:
    """Return the name of a value's type in JSON."""
    if value is None:
        return "null"
    names = {list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
