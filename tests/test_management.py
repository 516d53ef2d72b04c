"""Answers of the management API: redirects, proxies and endless answers are refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from feedbus.broker import inventory
from feedbus.broker.rabbitmq import management
from feedbus.errors import UsageError
from feedbus.store.peewee import close_bound
from feedbus.topology import Topology
from feedbus.urls import parse_broker_url, parse_management_url
from tests.small_topologies import queue
from tests.systems import System


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Serve one answer to every request; yield the URL and the received requests."""
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
    api = management.ManagementApi(parse_management_url(url), "/")
    with pytest.raises(UsageError) as caught:
        api.list("queues")
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def test_a_redirect_is_not_followed():
    with answering(200, b"[]") as (elsewhere, asked), answering(302, Location=elsewhere) as here:
        assert "to which feedbus does not send the password" in refusal(here[0])
    assert asked == []


def test_the_environments_proxy_is_not_used(monkeypatch):
    with answering(200, b"[]") as (proxy, by_proxy), answering(200, b"[]") as (url, asked):
        monkeypatch.setenv("http_proxy", proxy)
        assert management.ManagementApi(parse_management_url(url), "/").list("queues") == []
    assert by_proxy == []
    assert asked[0].startswith("/api/queues/%2F Basic ")


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (b"[" + b"1," * 600_000 + b"1]", "larger than 1,000,000 bytes"),
        (b"[" * 100_000, "not a list of queues"),
        (b"{}", "not a list of queues"),
        (b"[1]", "not a list of queues"),
        (b"<html>", "not a list of queues"),
    ],
    ids=["too large", "too deep", "no list", "no objects", "no JSON"],
)
def test_an_answer_that_is_none_is_refused(monkeypatch, body, reported):
    monkeypatch.setattr(management, "MAX_ANSWER_BYTES", 1_000_000)
    with answering(200, body) as (url, _):
        text = refusal(url)
    assert reported in text
    assert "[broker] management" in text
    assert "rabbitmq-plugins" not in text  # the API has answered, so the plugin is not the cause


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection with a function; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(10_000)
                serve(accepted)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"


def test_an_answer_that_is_too_slow_is_to_be_asked_for_later(monkeypatch):
    monkeypatch.setattr(management, "TIMEOUT_SECONDS", 0.2)
    with server(lambda accepted: accepted.recv(1)) as url:
        assert "it has sent nothing for 0 s; try again when RabbitMQ has less load" in refusal(url)
    monkeypatch.setattr(management, "DEADLINE_SECONDS", 0.0)
    with answering(200, b"[]") as (url, _):
        text = refusal(url)
    assert "its answer takes longer than 0 s; try again when RabbitMQ has less load" in text


def test_a_connection_that_is_lost_during_the_answer_points_to_rabbitmqs_log():
    for head in (b"", HEAD):
        with server(lambda accepted, head=head: accepted.sendall(head)) as url:
            text = refusal(url)
        assert "the connection was lost (" in text
        assert "; RabbitMQ's log may have the reason" in text


def test_an_answer_of_another_protocol_asks_for_the_address():
    with server(lambda accepted: accepted.sendall(b"AMQP\x00\x00\x09\x01")) as url:
        assert "its answer is not HTTP; set [broker] management to the address" in refusal(url)


def test_a_management_api_that_does_not_answer_says_what_to_set(rabbitmq, tmp_path: Path) -> None:
    system = System.at(tmp_path, queue(), broker_url=rabbitmq.url)
    close_bound()
    nobody = replace(system.topology, management_url=parse_management_url("http://127.0.0.1:1"))
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1 cannot be read.*\[broker\] management"):
        inventory.read_inventory(nobody)
    stranger = rabbitmq.management_url.replace("://", "://nobody:wrong@")
    with pytest.raises(UsageError, match="refuses the user 'nobody' with this password"):
        inventory.read_inventory(
            replace(system.topology, management_url=parse_management_url(stranger))
        )


@pytest.mark.parametrize(
    ("url", "reported_url", "expected"),
    [
        ("amqp://a:b%40@rabbit/vh", None, ("http://rabbit:15672", "a", "b@", "vh")),
        ("amqps://a:b@rabbit:5671//", None, ("https://rabbit:15671", "a", "b", "/")),
        ("amqp://[::1]:5672", None, ("http://[::1]:15672", "guest", "guest", "/")),
        ("amqp://a:b@r/", "https://x:y@m/api-of-it/", ("https://m/api-of-it", "x", "y", "/")),
        ("amqp://a:b@r1/;amqp://c:d@r2/", None, ("http://r1:15672", "a", "b", "/")),
    ],
)
def test_the_management_api_is_found_by_the_brokers_url(
    tmp_path: Path, url: str, reported_url: str | None, expected: tuple[str, ...]
) -> None:
    given = parse_management_url(reported_url) if reported_url else None
    broker_url = parse_broker_url(url)
    topology = Topology("t", tmp_path / "t.toml", broker_url, {}, {}, management_url=given)
    api = management.ManagementApi.of(topology.broker_url, topology.management_url)[0]
    assert (str(api.url), api.url.user, api.url.password, api.virtual_host) == expected
