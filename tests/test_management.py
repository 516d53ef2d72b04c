"""What the management API may answer: no redirect, proxy or endless answer gets anywhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from feedbus.broker.rabbitmq import management
from feedbus.errors import UsageError
from feedbus.urls import parse_management_url


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer to every request; give the URL and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization', '')}")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://me:s3cretS3cret@127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def refusal(url: str) -> str:
    api = management.Api(parse_management_url(url), "/")
    with pytest.raises(UsageError) as caught:
        api.list("queues")
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def test_a_redirect_is_not_followed():
    with answering(200, b"[]") as (elsewhere, asked), answering(302, Location=elsewhere) as here:
        assert "a redirect is not followed" in refusal(here[0])
    assert asked == []


def test_the_environments_proxy_is_not_used(monkeypatch):
    with answering(200, b"[]") as (proxy, by_proxy), answering(200, b"[]") as (url, asked):
        monkeypatch.setenv("http_proxy", proxy)
        assert management.Api(parse_management_url(url), "/").list("queues") == []
    assert by_proxy == []
    assert asked[0].startswith("/api/queues/%2F Basic ")


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (b"[" + b"1," * 600_000 + b"1]", "larger than 1,000,000 bytes"),
        (b"[" * 100_000, "RecursionError"),
        (b"{}", "not a list of queues"),
        (b"[1]", "not a list of queues"),
        (b"<html>", "JSONDecodeError"),
    ],
    ids=["too large", "too deep", "no list", "no objects", "no JSON"],
)
def test_an_answer_that_is_none_is_refused(monkeypatch, body, reported):
    monkeypatch.setattr(management, "LARGEST_BYTES", 1_000_000)
    with answering(200, body) as (url, _):
        assert reported in refusal(url)
