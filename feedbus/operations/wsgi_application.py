"""A WSGI application: access control, errors as problem documents, and metrics of requests."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import bottle

from feedbus.errors import Outage, OutagePart, unavailable_part
from feedbus.logs import EventLog
from feedbus.operations.access_control import Guard
from feedbus.operations.responses import BAD_REQUEST, UNAVAILABLE, from_bottle, problem
from feedbus.printable import one_line

events = EventLog(__name__)

HEADERS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
]
RETRY_AFTER = [("Retry-After", "5")]
# What the answer and the log say about an outage of each part. No text says that nothing was
# changed, because the part may have become unavailable after a commit or a publish.
UNAVAILABLE_PARTS: dict[OutagePart, str] = {
    "store": "the store does not answer or accepts no writes",
    "broker": "the broker does not answer or accepts no messages",
    "handler": "another service that the request needs is unavailable",
}

StartResponse = Callable[..., Any]
Measure = Callable[[str, str, int, float], None]


def measure_nothing(method: str, route: str, status: int, seconds: float) -> None:
    """Do nothing: the default for an application whose requests are not measured.

    Args:
        method: the method of the request.
        route: the route of the request.
        status: the HTTP status of the answer.
        seconds: the duration of the request.

    """


class Application(bottle.Bottle):
    """A Bottle application that checks access and answers every error as a problem document.

    Each HTTP server of feedbus has one Application object. A problem document is JSON as in
    RFC 9457.
    """

    def __init__(
        self,
        guard: Guard,
        *,
        not_found: str,
        is_outage: Callable[[Exception], bool] = lambda _: False,
        measure: Measure = measure_nothing,
    ) -> None:
        """Create an application without routes.

        Args:
            guard: checks requests for routes that are not public.
            not_found: the detail of the answer to a path that no route has.
            is_outage: returns whether an error means that the store is unavailable. The application
                does not call the function for an Outage, because the class of the exception
                (Outage or a subclass) shows which part is unavailable.
            measure: called after each request with the method, the route, the answer's status and
                the duration in seconds. The route is the path as it is declared, or "none" for an
                unknown path. The path of the request itself is not suitable for metrics, because a
                client can send any path.

        """
        super().__init__()
        self._not_found = not_found
        self._measure = measure
        self.add_hook("before_request", check_path)
        self.install(_Shield(guard, is_outage))

    def wsgi(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request, measure it, and add the headers that all answers have.

        Args:
            environ: the WSGI environment of the request.
            start_response: the server's function that takes the status and the headers.

        Returns:
            The parts of the body.

        """
        started = time.perf_counter()
        sent_status = [500]  # the status is 500 if the application raises an exception

        def respond(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            sent_status[0] = int(status[:3])
            return start_response(status, headers + HEADERS, exc_info)

        try:
            body: Iterable[bytes] = super().wsgi(environ, respond)
        finally:
            route = environ.get("bottle.route")
            rule = route.rule if route else "none"
            seconds = time.perf_counter() - started
            self._measure(environ["REQUEST_METHOD"], rule, sent_status[0], seconds)
        return body

    def default_error_handler(self, res: bottle.HTTPError) -> bytes:
        """Return a problem document as the body of an error that Bottle has found, such as 404."""
        answer = from_bottle(res, self._not_found)
        answer.apply(bottle.response)
        body: bytes = answer.body
        return body


def check_path() -> None:
    """Raise a response with status 400 if the path of the current request is not UTF-8.

    Bottle calls the function before each request. Bottle itself would remove the invalid bytes, and
    answer for another path.
    """
    try:
        bottle.request.environ["bottle.raw_path"].encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        raise problem(BAD_REQUEST, "The path is not UTF-8.") from None


class _Shield:
    """A Bottle plugin that checks access to each route, and converts exceptions to answers."""

    api = 2
    name = "shield"

    def __init__(self, guard: Guard, is_outage: Callable[[Exception], bool]) -> None:
        self._guard = guard
        self._is_outage = is_outage

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Return the wrapped function of a route."""
        public, metrics = route.config.get("public", False), route.config.get("metrics", False)
        check = self._guard.check

        def answer(**arguments: str) -> Any:
            if not public:
                check(bottle.request.environ, metrics=metrics)
            try:
                return callback(**arguments)
            except bottle.HTTPResponse:
                raise
            except Exception as error:
                raise self._failure(error, route.rule) from error

        return answer

    def _failure(self, error: Exception, rule: str) -> bottle.HTTPResponse:
        """Return the answer to an error of a route, and log the details.

        The answer has the status 503 for an outage, and 500 for any other error.

        Args:
            error: the exception of the function of the route.
            rule: the path of the route as it is declared, for the log.

        """
        if isinstance(error, Outage) or self._is_outage(error):
            part = unavailable_part(error) if isinstance(error, Outage) else "store"
            reason = UNAVAILABLE_PARTS[part]
            events.error(
                "request_outage",
                f"a request was answered with 503, because {reason}",
                route=rule,
                part=part,
                error=one_line(error),
            )
            detail = f"{reason[0].upper()}{reason[1:]}. Try again later."
            return problem(UNAVAILABLE, detail, headers=RETRY_AFTER)
        code = uuid.uuid4().hex[:12]
        events.error(
            "request_crashed",
            "a request was answered with 500, because an unexpected exception was raised",
            id=code,
            route=rule,
            exc_info=error,
        )
        return problem(500, f"The server failed; its log has the details under id={code}.")
