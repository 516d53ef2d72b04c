"""The responses of routes: JSON, and every error as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import bottle

JSON, PROBLEM = "application/json", "application/problem+json"
BAD_REQUEST, NOT_FOUND, CONFLICT = HTTPStatus(400), HTTPStatus(404), HTTPStatus(409)
UNAVAILABLE = HTTPStatus(503)

Errors = Mapping[str, Sequence[str]]

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def answer(fields: Mapping[str, Any], status: int = 200) -> bytes:
    """Return the body of a JSON response; set the status and type of Bottle's current response.

    Args:
        fields: the fields of the JSON object.
        status: the HTTP status.

    """
    bottle.response.status = status
    return typed(JSON, encode(fields).encode())


def typed(media_type: str, body: bytes) -> bytes:
    """Return a body unchanged; set the content type of Bottle's current response.

    Args:
        media_type: the content type.
        body: the body.

    """
    bottle.response.content_type = media_type
    return body


def problem_body(status: int, detail: str, errors: Errors | None = None) -> bytes:
    """Return the body of an error response: a problem document (RFC 9457) as JSON.

    The JSON contains only ASCII characters and escapes. So the argument `detail` can also be a text
    with surrogates, which stand for bytes that are not valid UTF-8.

    Args:
        status: the HTTP status.
        detail: what happened and what to do, for the person who sent the request.
        errors: maps each field to its errors; the key "" stands for the whole body. None if there
            are no errors.

    """
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
    }
    if errors:
        document["errors"] = {field: list(texts) for field, texts in errors.items()}
    return json.dumps(document, separators=(",", ":")).encode()


def problem(
    status: int,
    detail: str,
    errors: Errors | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bottle.HTTPResponse:
    """Return a response with a problem document (RFC 9457), which a route raises.

    Args:
        status: the HTTP status.
        detail: what happened and what to do, for the person who sent the request.
        errors: maps each field to its errors; the key "" stands for the whole body. None if there
            are no errors.
        headers: the names and values of further headers.

    """
    response = bottle.HTTPResponse(problem_body(status, detail, errors), status=int(status))
    response.set_header("Content-Type", PROBLEM)
    for name, value in headers:
        response.add_header(name, value)
    return response


def from_bottle(error: bottle.HTTPError, not_found: str) -> bottle.HTTPResponse:
    """Return the response with a problem document for an error that Bottle has found.

    Examples are a wrong method and a wrong path.

    Args:
        error: the error of Bottle.
        not_found: the detail for a path that no route has.

    """
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return method_not_allowed(error.get_header("Allow", ""))
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NOT_FOUND, not_found)
    return problem(error.status_code, "The request could not be answered.")


def method_not_allowed(allowed_methods: str) -> bottle.HTTPResponse:
    """Return the answer to a method that no route of the path has.

    For OPTIONS, it lists the methods of the path. For any other method, it is the error 405.

    Args:
        allowed_methods: the methods that the path has, separated by commas.

    """
    methods = {method for method in allowed_methods.split(",") if method}
    if "GET" in methods:
        methods.add("HEAD")
    allowed = ", ".join(sorted(methods | {"OPTIONS"}))
    if bottle.request.method == "OPTIONS":
        return bottle.HTTPResponse(status=204, headers={"Allow": allowed})
    detail = f"{bottle.request.method} is not allowed here; expected one of {allowed}."
    return problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers=[("Allow", allowed)])
