"""HTTP clients that need little processor time, because the server runs on the same machine."""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

CLIENTS = 32
POSTERS = 8
START_SECONDS = 30.0
END_OF_HEAD = b"\r\n\r\n"


class Client:
    """A connection that stays open."""

    def __init__(self, port: int) -> None:
        """Connect to a port of this machine at the first request."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> tuple[float, bytes]:
        """Return the seconds that a GET took, and its body."""
        started = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - started
        assert answer.status < 300, f"GET {path}: {answer.status} {body!r}"
        return seconds, body

    def post(self, path: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a POST."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", path, json.dumps(payload), headers)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status < 300, f"POST {path}: {answer.status} {body!r}"
        decoded: dict[str, Any] = json.loads(body)
        return decoded


def await_server(port: int) -> None:
    """Wait until a program listens on a port of this machine."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens on port {port}"
            time.sleep(0.05)
        else:
            return


def post_tweets(
    port: int, posts: Sequence[tuple[int, str]], *, rate: float | None = None
) -> list[tuple[int, float]]:
    """Post tweets of (author, text) from eight clients; return the id and the time of each.

    Args:
        port: the port of the server on this machine.
        posts: the tweets, in order.
        rate: tweets per second. The time of a tweet is then the time at which it was due, so the
            wait for a free client counts. None posts as fast as the server answers.

    """
    begun = time.time()

    made: list[tuple[int, float]] = [(0, 0.0)] * len(posts)

    def work(offset: int) -> None:
        with Client(port) as client:
            for index in range(offset, len(posts), POSTERS):
                due = time.time() if rate is None else begun + index / rate
                time.sleep(max(due - time.time(), 0))
                author, text = posts[index]
                body = {"userId": author, "text": text, "async": True}
                made[index] = int(client.post("/api/v1/post-tweet", body)["id"]), due

    with ThreadPoolExecutor(POSTERS) as clients:
        for _ in clients.map(work, range(POSTERS)):
            pass  # raises the exception of a client
    return made


def requests_per_second(port: int, paths: Sequence[str], seconds: float) -> float:
    """Return how many GETs per second a server answers to 32 clients without pauses."""
    with _connected(port, paths) as chosen:
        _run(chosen, seconds / 4)  # before the measurement
        started = time.perf_counter()
        answered = _run(chosen, seconds)
        return answered / (time.perf_counter() - started)


class _Asker:
    """One of many clients of one thread: a request that is sent again at each answer."""

    def __init__(self, port: int, path: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setblocking(False)
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._received = b""

    def ask(self) -> None:
        self._received = b""
        self.socket.send(self._request)

    def answered(self) -> bool:
        self._received += self.socket.recv(65_536)
        head, found, body = self._received.partition(END_OF_HEAD)
        if not found:
            return False
        assert head.startswith(b"HTTP/1.1 200 "), head
        start = head.lower().index(b"content-length:") + len(b"content-length:")
        return len(body) >= int(head[start:].split(b"\r\n", 1)[0])


@contextmanager
def _connected(port: int, paths: Sequence[str]) -> Iterator[selectors.BaseSelector]:
    chosen = selectors.DefaultSelector()
    askers = [_Asker(port, paths[index % len(paths)]) for index in range(CLIENTS)]
    try:
        for asker in askers:
            chosen.register(asker.socket, selectors.EVENT_READ, asker)
        yield chosen
    finally:
        for asker in askers:
            asker.socket.close()
        chosen.close()


def _run(chosen: selectors.BaseSelector, seconds: float) -> int:
    askers = [key.data for key in chosen.get_map().values()]
    for asker in askers:
        asker.ask()
    answered, waiting, deadline = 0, len(askers), time.perf_counter() + seconds
    while waiting:
        for key, _ in chosen.select(30):
            if key.data.answered():
                answered += 1
                if time.perf_counter() < deadline:
                    key.data.ask()
                else:
                    waiting -= 1
    return answered
