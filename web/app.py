"""The API's WSGI application: its routes, its description, its metrics and its health."""

from __future__ import annotations

import json
from functools import cache

from feedbus.metrics import CONTENT_TYPE
from feedbus.operations.access_control import Guard
from feedbus.operations.responses import JSON, answer, typed
from feedbus.operations.wsgi_application import Application
from feedbus.store.relay import Relay
from feedbus.topology import Topology
from web import api
from web.request_metrics import RequestMetrics

NOT_FOUND = "There is nothing here; /openapi.json lists what there is."


def make_app(topology: Topology, relay: Relay, guard: Guard | None = None) -> Application:
    """Return the WSGI application of the API: its routes, metrics, health check and description.

    Args:
        topology: the topology whose handlers can run within a request.
        relay: publishes the messages of requests; its store is open.
        guard: checks the access of requests; by default, only this machine has access.

    """
    guard = guard or Guard()
    metrics = RequestMetrics()
    app = Application(
        guard, not_found=NOT_FOUND, is_outage=relay.store.is_outage, measure=metrics.measure
    )
    api.install(app, topology, relay)
    locked = guard.token is not None

    def exposition() -> bytes:
        return typed(CONTENT_TYPE, metrics.exposition())

    def health() -> bytes:
        return answer({"status": "ok"})

    def document() -> bytes:
        return typed(JSON, openapi_document(locked=locked))

    app.route("/metrics", "GET", exposition, metrics=True)
    app.route("/healthz", "GET", health, public=True)
    app.route("/openapi.json", "GET", document, public=True)
    return app


@cache
def openapi_document(*, locked: bool) -> bytes:
    """Return the OpenAPI document of the API, as JSON.

    The document is created at the first call. The library for this is imported only then.

    Args:
        locked: whether requests need a token.

    """
    from web.openapi import build

    return json.dumps(build(locked=locked), ensure_ascii=False).encode()
