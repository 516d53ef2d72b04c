"""The metrics of the API's requests, which GET /metrics of this server exposes."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestMetrics:
    """Counts the requests of one server process by method, route and status."""

    def __init__(self) -> None:
        """Create the metrics with 0, in a separate registry."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "http_requests", "Requests answered.", ("method", "route", "status"),
            registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "http_request_seconds", "Time to answer a request.", ("method", "route"),
            buckets=BOUNDS, registry=self._registry,
        )  # fmt: skip

    def measure(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; the application calls the method after each one.

        Args:
            method: the method; a method that is not in use counts as "other".
            route: the path of the route as it is declared, or "none".
            status: the HTTP status of the answer.
            seconds: the duration of the request.

        """
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus's text format, for GET /metrics."""
        return generate_latest(self._registry)
