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
    """The body or query of a request is malformed; read_body() converts it to a response 400.

    Attributes:
        detail: what is wrong, for the sender of the request.
        errors: maps each field to its errors; "" stands for the whole body; None for no errors.

    """

    def __init__(self, detail: str, errors: Errors | None = None) -> None:
        """Create the error with the text for the sender of the request."""
        self.detail = detail
        self.errors = errors
        super().__init__(detail)


def read_body(schema: Schema) -> dict[str, Any]:
    """Return the JSON body of Bottle's current request, checked and loaded by a schema.

    Args:
        schema: the marshmallow schema of the body.

    Raises:
        bottle.HTTPResponse: the body is wrong; it has a problem document, and the status 400, 411,
            413 or 415.

    """
    environ = bottle.request.environ
    check_content_type(environ.get("CONTENT_TYPE", ""))
    try:
        fields = parse(read_bytes(environ))
    except MalformedError as error:
        raise problem(BAD_REQUEST, error.detail, error.errors) from None
    return load(schema, fields, "The body does not have the fields that were expected.")


def read_query(schema: Schema) -> Mapping[str, Any]:
    """Return the query parameters of Bottle's current request, checked and loaded by a schema.

    Args:
        schema: the marshmallow schema of the parameters.

    Raises:
        bottle.HTTPResponse: the parameters are wrong; it has a problem document, and the status
            400.

    """
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
    """Return fields of a request as a schema loads them.

    Args:
        schema: the marshmallow schema.
        fields: the fields, by name.
        detail: the detail of the problem document, if a field is wrong.

    Raises:
        bottle.HTTPResponse: with status 400 and the errors of each wrong field.

    """
    try:
        loaded: dict[str, Any] = schema.load(fields)
    except ValidationError as error:
        raise problem(BAD_REQUEST, detail, by_field(error)) from None
    return loaded


def by_field(error: ValidationError) -> dict[str, list[str]]:
    """Return the texts of marshmallow's error by field; "" stands for the whole input.

    Args:
        error: the error that the schema raised.

    """
    messages = error.normalized_messages()
    return {
        "" if field == "_schema" else str(field): list(texts) for field, texts in messages.items()
    }


def check_content_type(header: str) -> None:
    """Refuse a body whose content type is not JSON in UTF-8.

    A form of another web site cannot send a body with this content type.

    Args:
        header: the value of the header Content-Type; "" if the request has none.

    Raises:
        bottle.HTTPResponse: with status 415.

    """
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
    """Return the body of a request.

    The stream of some servers ends only with the connection, so no more than the length is read.

    Args:
        environ: the WSGI environment of the request.

    Raises:
        bottle.HTTPResponse: with status 411 if the request has no Content-Length, or 413 if the
            body is too large.

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
    """Return the fields of a JSON object.

    JSON that different parsers read differently is refused, too: for example, a repeated name.

    Args:
        body: the body of the request.

    Raises:
        MalformedError: the body is not such an object.

    """
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
        detail = "The body contains a number that is too long."
        raise MalformedError(detail) from None
    if not isinstance(parsed, dict):
        detail = f"Expected a JSON object, got {name_of(parsed)}."
        raise MalformedError(detail)
    return parsed


def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of the (name, value) pairs of a JSON object or a query.

    Args:
        pairs: the pairs, as they were sent.

    Raises:
        MalformedError: a name is given twice; parsers differ on which of the values counts.

    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = {name: ["Given more than once."] for name, count in counts.items() if count > 1}
        detail = "A name is given more than once."
        raise MalformedError(detail, twice)
    return fields


def refuse_constant(name: str) -> None:
    """Refuse NaN and the infinities; Python's parser calls the function for these constants.

    Args:
        name: the constant. JSON does not have it.

    Raises:
        MalformedError: always.

    """
    detail = f"The body is not JSON: {name} is not a JSON number."
    raise MalformedError(detail)


def name_of(value: Any) -> str:
    """Return the name of a value's JSON type for an error, such as "an array"."""
    if value is None:
        return "null"
    names = {list: "an array", str: "a string", bool: "a boolean"}
    return names.get(type(value), "a number")
