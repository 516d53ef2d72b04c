"""The API's OpenAPI 3.1 document, generated from the schemas that check the requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from feedbus.operations.responses import PROBLEM as MEDIA_TYPE
from web import schemas

JSON = "application/json"
DESCRIPTION = """Every error is `application/problem+json`: `detail` says what happened and what to
do, `errors` what is wrong with each field. A body that does not parse and a body that does not
validate are both 400. Bodies are UTF-8 JSON of at most 64 KB, without repeated names."""

TITLES = {
    400: "The request is malformed, or a field is wrong; `errors` says which and how",
    401: "The token is missing or wrong",
    404: "There is no such user",
    409: "It exists already",
    411: "The request has no body",
    413: "The body is too large",
    415: "The body is not application/json",
    421: "The request was meant for another host",
    500: "A bug; the log has the details under the id in `detail`",
    503: "The store, the broker or another service is unavailable; try again later",
}
EVERYWHERE = (401, 421, 500, 503)
WITH_BODY = (400, 411, 413, 415)


def build(*, locked: bool) -> dict[str, Any]:
    """Return the OpenAPI document of the API, as JSON values.

    Args:
        locked: whether the server requires a token.

    """
    plugin = MarshmallowPlugin(schema_name_resolver=name_of)
    spec = APISpec(
        title="feedbus reference application",
        version="1",
        openapi_version="3.1.0",
        info={"description": DESCRIPTION},
        plugins=[plugin],
        security=[{"token": []}] if locked else [],
    )
    spec.components.security_scheme("token", {"type": "http", "scheme": "bearer"})
    spec.components.schema("Problem", schema=schemas.ProblemAnswer)
    for status, title in TITLES.items():
        content = {MEDIA_TYPE: {"schema": schemas.ProblemAnswer}}
        spec.components.response(
            HTTPStatus(status).name, {"description": title, "content": content}
        )
    for path, operations in PATHS.items():
        spec.path(
            path, operations={method: dict(described) for method, described in operations.items()}
        )
    document: dict[str, Any] = spec.to_dict()
    document["paths"]["/api/v2/user"]["post"]["responses"]["201"]["links"] = USER_LINKS
    refine(document["components"]["schemas"])
    return document


def name_of(schema: Any) -> str:
    """Return the name of a schema among the components: its class's name without "Answer"."""
    kind = schema if isinstance(schema, type) else type(schema)
    name: str = kind.__name__
    return name.removesuffix("Answer")


def refine(components: dict[str, Any]) -> None:
    """Add the rules that marshmallow checks in code, and apispec does not find.

    These are the refusal of unknown fields, and that a user needs an e-mail address or a phone.

    Args:
        components: the schemas of the document by name; they are changed.

    """
    for name, component in components.items():
        if name != "Problem":
            component["additionalProperties"] = False
    channels = [{"required": ["email"]}, {"required": ["phone"]}]
    components["UserBody"]["anyOf"] = channels


def problems(*statuses: int) -> dict[str, Any]:
    """Return the error responses of an operation, each as a reference to the components.

    Args:
        statuses: the HTTP statuses of its own errors; those of all operations are added.

    """
    return {str(status): HTTPStatus(status).name for status in sorted({*statuses, *EVERYWHERE})}


def answers(content: Mapping[int, type[Schema]]) -> dict[str, Any]:
    """Return the responses of an operation for success, by status.

    Args:
        content: maps each HTTP status to the schema of its body.

    """
    return {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {JSON: {"schema": schema}},
        }
        for status, schema in content.items()
    }


def post(
    operation: str,
    summary: str,
    body: type[Schema],
    content: Mapping[int, type[Schema]],
    *statuses: int,
    parameters: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the description of an operation that takes a JSON body.

    Args:
        operation: the id of the operation.
        summary: what it does.
        body: the schema of the body.
        content: maps the HTTP status of each success to the schema of its answer.
        statuses: the HTTP statuses of its own errors.
        parameters: its headers and other parameters.

    """
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": list(parameters),
        "requestBody": {"required": True, "content": {JSON: {"schema": body}}},
        "responses": {**answers(content), **problems(*WITH_BODY, *statuses)},
    }


def get(
    operation: str,
    summary: str,
    parameters: Sequence[Mapping[str, Any]],
    content: Mapping[int, type[Schema]],
    *statuses: int,
) -> dict[str, Any]:
    """Return the description of an operation that only reads.

    Args:
        operation: the id of the operation.
        summary: what it does.
        parameters: the parameters of the path and the query.
        content: maps the HTTP status of each success to the schema of its answer.
        statuses: the HTTP statuses of its own errors.

    """
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {**answers(content), **problems(400, *statuses)},
    }


def plain(
    operation: str, summary: str, media_type: str, schema: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the description of an operation without parameters, whose answer has no schema class.

    Args:
        operation: the id of the operation.
        summary: what it does.
        media_type: the content type of the answer.
        schema: the JSON Schema of the answer.

    """
    success = {"description": "OK", "content": {media_type: {"schema": dict(schema)}}}
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": success, **problems()},
    }


def public(operation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of an operation, changed so that it needs no token.

    Args:
        operation: the description.

    """
    return {**operation, "security": []}


USER_LINKS = {
    "tweet": {
        "operationId": "postTweet",
        "requestBody": {"userId": "$response.body#/id", "text": "Hello, followers"},
    },
    "feed": {"operationId": "getFeed", "parameters": {"id": "$response.body#/id"}},
    "followers": {
        "operationId": "addFollowers",
        "requestBody": {"userId": "$response.body#/id", "followerLogin": "fan", "count": 3},
    },
}
IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated request with the same key returns the same tweet, and posts none.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": schemas.KEY_CHARACTERS,
        "pattern": "^[!-~]+$",
    },
}
TEXT, OBJECT = {"type": "string"}, {"type": "object"}

PATHS: Mapping[str, Mapping[str, Any]] = {
    "/api/v2/user": {
        "post": post("createUser", "Create a user", schemas.UserBody, {201: schemas.IdAnswer}, 409)
    },
    "/api/v1/add-followers": {
        "post": post(
            "addFollowers",
            "Create followers of a user",
            schemas.FollowersBody,
            {200: schemas.CreatedAnswer, 202: schemas.AcceptedAnswer},
            404,
            409,
        )
    },
    "/api/v1/post-tweet": {
        "post": post(
            "postTweet",
            "Post a tweet; 202 when the feeds are filled after the answer, 201 when before",
            schemas.TweetBody,
            {201: schemas.IdAnswer, 202: schemas.IdAnswer},
            404,
            409,
            parameters=[IDEMPOTENCY_KEY],
        )
    },
    "/api/v1/get-feed/{id}": {
        "get": get(
            "getFeed",
            "Read the last tweets of a user's feed, or the last before one, oldest first",
            [
                {"in": "path", "schema": schemas.UserPath},
                {"in": "query", "schema": schemas.FeedQuery},
            ],
            {200: schemas.TweetsAnswer},
            404,
        )
    },
    "/api/v1/get-tweets": {
        "get": get(
            "getTweets",
            "Read a page of all tweets, or the last before one, newest first",
            [{"in": "query", "schema": schemas.PageQuery}],
            {200: schemas.TweetsAnswer},
        )
    },
    "/metrics": {"get": plain("metrics", "Metrics of requests", "text/plain", TEXT)},
    "/healthz": {"get": public(plain("health", "This process answers", JSON, OBJECT))},
    "/openapi.json": {"get": public(plain("document", "This document", JSON, OBJECT))},
}
