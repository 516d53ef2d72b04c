"""The WSGI application: guard, routes, errors and measures around every request."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import bottle

from feedbus.errors import Outage
from feedbus.metrics import Metrics
from feedbus.store import Store
from feedbus.store.relay import Relay
from feedbus.topology import Topology
from web import api, operations
from web.depths import Depths
from web.guard import Guard
from web.problems import BAD_REQUEST, UNAVAILABLE, from_bottle, problem

log = logging.getLogger("web")

HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
]
RETRY_AFTER = [("Retry-After", "5")]

StartResponse = Callable[..., Any]


class Web(bottle.Bottle):
    """A Bottle application that measures each request and answers errors as problems."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        """Count in metrics, where there are any."""
        super().__init__()
        self.metrics = metrics
        self.add_hook("before_request", check_path)

    def wsgi(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, measure it, and add the headers that all answers have."""
        started = time.perf_counter()
        seen = [500]

        def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            seen[0] = int(status[:3])
            return start_response(status, headers + HEADERS, exc_info)

        try:
            body: Iterable[bytes] = super().wsgi(environ, respond)
        finally:
            if self.metrics is not None:
                seconds = time.perf_counter() - started
                self.metrics.http(*measured(environ), seen[0], seconds)
        return body

    def default_error_handler(self, res: bottle.HTTPError) -> bytes:
        """Answer Bottle's own errors as problems."""
        answer = from_bottle(res)
        answer.apply(bottle.response)
        body: bytes = answer.body
        return body


def check_path() -> None:
    """Refuse a path that is not UTF-8; Bottle would leave out what it cannot read."""
    try:
        bottle.request.environ["bottle.raw_path"].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise problem(BAD_REQUEST, "The path is not UTF-8.") from None


def measured(environ: dict[str, Any]) -> tuple[str, str]:
    """Return method and route: the rule, as paths have no end."""
    route = environ.get("bottle.route")
    return environ["REQUEST_METHOD"], route.rule if route else "none"


class Shield:
    """A plugin that guards each route that is not public and tells what its failures mean."""

    api = 2
    name = "shield"

    def __init__(self, guard: Guard, store: Store) -> None:
        """Let through whom guard lets through; store says which errors are its outages."""
        self._guard = guard
        self._store = store

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Wrap a route's function."""
        public, figures = route.config.get("public", False), route.config.get("figures", False)
        check = self._guard.check

        def answer(**arguments: str) -> Any:
            if not public:
                check(bottle.request.environ, figures=figures)
            try:
                return callback(**arguments)
            except bottle.HTTPResponse:
                raise
            except Exception as error:
                raise failure(error, route.rule, self._store) from error

        return answer


def failure(error: Exception, rule: str, store: Store) -> bottle.HTTPResponse:
    """Return the answer to an unforeseen error, and log what the answer does not tell."""
    if isinstance(error, Outage) or store.is_outage(error):
        log.error("event=outage route=%s error=%s", rule, " ".join(str(error).split()))
        detail = "The store is away or takes no writes; nothing was changed. Try again later."
        return problem(UNAVAILABLE, detail, headers=RETRY_AFTER)
    code = uuid.uuid4().hex[:12]
    log.error("event=crash id=%s route=%s", code, rule, exc_info=error)
    return problem(500, f"The server failed; its log has the details under id={code}.")


def make_app(
    topology: Topology,
    relay: Relay,
    depths: Depths,
    *,
    metrics: Metrics | None = None,
    guard: Guard | None = None,
) -> Web:
    """Make the application.

    Args:
        topology: whose broker and store it works on; the store is open already.
        relay: publishes what requests ask for.
        depths: says what waits in the broker.
        metrics: counts requests.
        guard: decides who may ask; by default anyone on this machine.

    """
    app = Web(metrics)
    guard = guard or Guard()
    app.install(Shield(guard, relay.store))
    api.install(app, topology, relay)
    operations.install(app, topology, relay.store, depths, locked=guard.token is not None)
    return app
