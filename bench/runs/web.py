"""Reading feeds over HTTP: short and long ones, one at a time and from 32 clients at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench import graphs
from bench.clients import Client, await_server, requests_per_second
from bench.runs.latency import percentile
from bench.stage import SERVERS, Place, Stage
from feedbus.operations.http_server import THREADS
from servers.ports import free_port
from store.queries.sql import rows

STOP_SECONDS = 20.0
COUNT = 20


def reading(stage: Stage) -> dict[str, float]:
    """Read twenty entries of a feed of a million and of a feed of twenty, in turns."""
    with stage.kept_place(SERVERS, "feeds") as place, _served(place) as port:
        paths = {login: _path(_reader(login)) for login in (graphs.LONG, graphs.SHORT)}
        with Client(port) as client:
            for path in paths.values():
                for _ in range(stage.scale.reads // 10):
                    assert client.get(path)[1].count(b'"author"') == COUNT
            took: dict[str, list[float]] = {login: [] for login in paths}
            for _ in range(stage.scale.reads):
                for login, path in paths.items():
                    took[login].append(client.get(path)[0] * 1000)
    long, short = took[graphs.LONG], took[graphs.SHORT]
    return {
        "long_p50_ms": percentile(long, 50),
        "long_p99_ms": percentile(long, 99),
        "short_p50_ms": percentile(short, 50),
        "short_p99_ms": percentile(short, 99),
        "ratio_p50": percentile(long, 50) / percentile(short, 50),
        "ratio_p99": percentile(long, 99) / percentile(short, 99),
    }


def serving(stage: Stage) -> dict[str, float]:
    """Request feeds from 32 clients at once, then the same bytes from a server with only Bottle."""
    with stage.kept_place(SERVERS, "feeds") as place:
        readers = rows("SELECT id FROM users WHERE login LIKE ? ORDER BY id LIMIT 500", "reader%")
        paths = [_path(int(reader)) for (reader,) in readers]
        with _served(place) as port:
            with Client(port) as client:
                body = client.get(paths[0])[1]
            feeds = requests_per_second(port, paths, stage.scale.serving_seconds)
    port = free_port()
    words = ["bench.bare", str(port), str(THREADS)]
    with _running(words, place, body):
        await_server(port)
        bare = requests_per_second(port, paths, stage.scale.serving_seconds)
    return {"requests": feeds, "bare": bare, "ratio": feeds / bare}


def _reader(login: str) -> int:
    return int(rows("SELECT id FROM users WHERE login = ?", login)[0][0])


def _path(reader: int) -> str:
    return f"/api/v1/get-feed/{reader}"


@contextmanager
def _served(place: Place) -> Iterator[int]:
    with _running(["web", "--threads", str(THREADS)], place, b""):
        await_server(place.port)
        yield place.port


@contextmanager
def _running(words: Sequence[str], place: Place, sent: bytes) -> Iterator[None]:
    with (place.topology.var.parent / "web.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=place.topology.root,
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    assert child.stdin is not None
    child.stdin.write(sent)
    child.stdin.close()
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(STOP_SECONDS)
