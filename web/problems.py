"""Every error of the API as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import bottle

MEDIA_TYPE = "application/problem+json"
BAD_REQUEST, NOT_FOUND, CONFLICT = HTTPStatus(400), HTTPStatus(404), HTTPStatus(409)
UNAVAILABLE = HTTPStatus(503)

Errors = Mapping[str, Sequence[str]]


def document(status: int, detail: str, errors: Errors | None = None) -> dict[str, Any]:
    """Describe what went wrong; errors says what is wrong with each field, "" is the whole."""
    told: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
    }
    if errors:
        told["errors"] = {field: list(texts) for field, texts in errors.items()}
    return told


def encode(told: Mapping[str, Any]) -> bytes:
    """Give the document's bytes; ASCII only, so that text that no UTF-8 holds can be quoted."""
    return json.dumps(told, separators=(",", ":")).encode()


def problem(
    status: int,
    detail: str,
    errors: Errors | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> bottle.HTTPResponse:
    """Make the response to raise from a route.

    Args:
        status: the HTTP status.
        detail: what happened and what to do, for the person who sent the request.
        errors: field to what is wrong with it.
        headers: headers to send besides the content type.

    """
    response = bottle.HTTPResponse(encode(document(status, detail, errors)), status=int(status))
    response.set_header("Content-Type", MEDIA_TYPE)
    for name, value in headers:
        response.add_header(name, value)
    return response


def from_bottle(error: bottle.HTTPError) -> bottle.HTTPResponse:
    """Tell what Bottle's own error (no such page, no such method, a crash) means here."""
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return wrong_method(error.get_header("Allow", ""))
    if error.status_code == HTTPStatus.NOT_FOUND:
        return problem(NOT_FOUND, "There is nothing here; /openapi.json lists what there is.")
    return problem(error.status_code, "The request could not be answered.")


def wrong_method(routed: str) -> bottle.HTTPResponse:
    """Answer OPTIONS with what a path allows, and any other method with 405 and the same."""
    methods = {method for method in routed.split(",") if method}
    if "GET" in methods:
        methods.add("HEAD")
    allowed = ", ".join(sorted(methods | {"OPTIONS"}))
    if bottle.request.method == "OPTIONS":
        return bottle.HTTPResponse(status=204, headers={"Allow": allowed})
    detail = f"{bottle.request.method} is not allowed here; expected one of {allowed}."
    return problem(HTTPStatus.METHOD_NOT_ALLOWED, detail, headers=[("Allow", allowed)])
