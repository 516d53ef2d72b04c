"""Clients that open connections and send little are closed, and other clients are served."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection

import pytest

from feedbus.operations import http_connections
from feedbus.operations.http_server import Address, Server, bind
from tests.projects import PATIENCE_SECONDS

HALVES = {
    "nothing": b"",
    "half of the headers": b"POST / HTTP/1.1\r\nHost: localhost\r\nX-",
    "half of the body": b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1234",
    "a promise of a body": (
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    ),
}


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture
def server() -> Iterator[Server]:
    with bind(Address("127.0.0.1", 0)) as listener:
        serving = Server(application, listener, threads=2)
        thread = threading.Thread(target=serving.run)
        thread.start()
        try:
            yield serving
        finally:
            serving.stop()
            thread.join()


@contextmanager
def half_open(server: Server, count: int, sent: bytes) -> Iterator[list[socket.socket]]:
    with ExitStack() as ending:
        opened = []
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_SECONDS)
            opened.append(ending.enter_context(client))
            client.sendall(sent)
        yield opened


def ask(server: Server) -> bytes:
    client = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    client.request("POST", "/", b"hello")
    try:
        return client.getresponse().read()
    finally:
        client.close()


def is_closed(client: socket.socket) -> bool:
    """Wait until the server closes a connection."""
    try:
        while client.recv(1000).startswith(b"HTTP/1.1 100"):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
def test_more_half_open_connections_than_may_be_open_keep_nobody_out(server, monkeypatch, sent):
    monkeypatch.setattr(http_connections, "MOST_CONNECTIONS", 100)
    with half_open(server, 300, sent) as opened:
        for _ in range(3):
            assert ask(server) == b"hello"
        assert all(is_closed(client) for client in opened[:200])


@pytest.mark.parametrize("kind", HALVES)
def test_a_request_that_does_not_end_is_closed(server, monkeypatch, kind):
    limit = "REQUEST_SECONDS" if "body" in kind else "HEADERS_SECONDS"
    monkeypatch.setattr(http_connections, limit, 0.1)
    with half_open(server, 3, HALVES[kind]) as opened:
        assert all(map(is_closed, opened))


def test_bytes_that_come_one_by_one_win_no_time(server, monkeypatch):
    monkeypatch.setattr(http_connections, "HEADERS_SECONDS", 0.5)
    ended = threading.Event()

    def trickle(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not ended.wait(0.02):
                client.sendall(b"x")

    with half_open(server, 1, b"GET / HTTP/1.1\r\nHost: x\r\nX: ") as (client,):
        thread = threading.Thread(target=trickle, args=(client,))
        thread.start()
        try:
            assert is_closed(client)
        finally:
            ended.set()
            thread.join()


def test_a_connection_that_was_answered_outlives_those_that_were_not(server, monkeypatch):
    monkeypatch.setattr(http_connections, "FEWEST_CONNECTIONS", 20)
    monkeypatch.setattr(http_connections, "MOST_CONNECTIONS", 20)
    kept = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_SECONDS)
    for _ in range(2):
        kept.request("POST", "/", b"hello")
        assert kept.getresponse().read() == b"hello"
        own_socket = kept.sock
        with half_open(server, 60, b"GET / HTTP/1.1\r\n") as opened:
            assert all(map(is_closed, opened[:30]))
        assert kept.sock is own_socket
    kept.request("POST", "/", b"again")
    assert kept.getresponse().read() == b"again"
    assert kept.sock is own_socket
    kept.close()


def test_an_idle_connection_is_closed_after_its_answer(server, monkeypatch):
    monkeypatch.setattr(http_connections, "IDLE_SECONDS", 0.1)
    with half_open(server, 1, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as (client,):
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        assert is_closed(client)


def test_fewer_connections_are_kept_where_few_files_may_be_open():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, hard))
        assert http_connections.connection_limit() == 500
        resource.setrlimit(resource.RLIMIT_NOFILE, (220, hard))
        assert http_connections.connection_limit() == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
