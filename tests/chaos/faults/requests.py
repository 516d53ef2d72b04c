"""The row of HTTP requests: schemathesis, and raw requests, many of them wrong, to both servers."""

from __future__ import annotations

import json
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.system import name_of, processes
from feedbus import config
from feedbus.topology import Topology
from servers.ports import free_port
from tests.chaos.faults.cells import Cell
from tests.chaos.faults.results import Result
from tests.chaos.faults.verdict import Verdict
from tests.projects import ROOT, environment_without_options
from tests.site import drive_by_schemathesis
from web.demo.running import Running

CLIENTS = 8
ANSWER_SECONDS = 0.2  # a request that is not complete gets no answer
FLAT = 1.15
SLACK_BYTES = 15_000_000
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
TEXTS = [
    "",
    "0",
    "-1",
    "1",
    "9" * 30,
    "é",
    "\x00",
    "\ud800",
    "a" * 5_000,
    "x' OR 1=1",
    "%00",
    "../..",
]
PATHS = {
    "web": [
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/api/v2/user",
        "/api/v1/feed",
        "/api/v2/tweet",
    ],
    "operations": ["/", "/operations.json", "/metrics", "/healthz", "/readyz"],
}
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH", "gET", "\x01", ""]


@dataclass(frozen=True, slots=True)
class Servers:
    """The application's web process and its operations process."""

    topology: Topology
    ports: dict[str, int]

    def memory_bytes(self) -> dict[str, int]:
        """Return the memory of each of the two processes."""
        named = {name_of(each): each for each in processes(self.topology)}
        return {name: named[name].memory_info().rss for name in self.ports}


@contextmanager
def served(folder: Path) -> Iterator[Servers]:
    """Run the reference application."""
    ports = {"web": free_port(), "operations": free_port()}
    environment = environment_without_options() | {
        "FEEDBUS_BROKER_URL": f"sqlite:///{folder}/var/broker.db",
        "FEEDBUS_DATABASE_URL": f"sqlite:///{folder}/var/feeds.db",
        "FEEDBUS_VAR": str(folder / "var"),
        "FEEDBUS_HTTP_PORT": str(ports["web"]),
        "FEEDBUS_OPERATIONS_PORT": str(ports["operations"]),
    }
    topology = config.load(ROOT / "topology.toml", environ=environment)
    with Running(topology, environment, folder / "up.log") as running:
        running.wait_until_ready()
        yield Servers(topology, ports)


class Client:
    """A client that sends raw requests, each drawn from a random source."""

    def __init__(self, seed: str, name: str, port: int) -> None:
        self._random = random.Random(seed)
        self._name, self._port = name, port
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def send(self, count: int) -> None:
        """Send so many requests, and count the answers by their status."""
        for _ in range(count):
            request = self._request()
            status = answered(self._port, request)
            self.statuses[f"{status[0]}xx" if status else "no answer"] += 1
            if status[:1] == "5":
                self.wrong.append(f"{self._name} answered {status} to {request[:500]!r}")

    def _request(self) -> bytes:
        choose = self._random.choice
        path = choose(PATHS[self._name])
        if self._random.random() < 0.5:
            path += choose("/?&#%") + choose(TEXTS)
        body = self._body()
        length = len(body) if self._random.random() < 0.9 else choose([0, 1, -1, "x", 10**20])
        lines = [
            f"{choose(METHODS) if self._random.random() < 0.6 else 'POST'} {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {choose(['application/json', 'text/plain', '', choose(TEXTS)])}",
            f"Content-Length: {length}",
            *(f"{choose(['X', 'Accept', 'If-None-Match', ''])}: {choose(TEXTS)}" for _ in range(2)),
            "Connection: close",
        ]
        self._random.shuffle(lines[1:])
        head = "\r\n".join(lines).encode(errors="surrogatepass")
        request = bytearray(head + b"\r\n\r\n" + body)
        if self._random.random() < 0.2 and request:  # an octet that is not meant
            request[self._random.randrange(len(request))] = self._random.randrange(256)
        return bytes(request)

    def _body(self) -> bytes:
        choose = self._random.choice
        names = ("login", "email", "phone", "userId", "text", "author", "count", choose(TEXTS))
        values = [*TEXTS, None, 1, -1, 1.5, [], {}, True, 2**70]
        fields = {choose(names): choose(values) for _ in range(self._random.randrange(4))}
        return choose([b"", b"{", b"[" * 10_000, json.dumps(fields).encode(), b"\xff\xfe"])


def answered(port: int, request: bytes) -> str:
    """Send a request and return the status of its answer, "" if there was none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            connection.sendall(request)
            connection.settimeout(ANSWER_SECONDS)
            found = STATUS.match(connection.recv(65_536))
            return found[1].decode() if found else ""
    except OSError:
        return ""


def run(cell: Cell, folder: Path) -> Result:
    """Send requests to both servers, and measure their memory before and after."""
    verdict = Verdict()
    with served(folder) as servers:
        examples = "5" if cell.short else "100"
        drive_by_schemathesis(servers.ports["web"], folder, "--max-examples", examples)
        statuses: Counter[str] = Counter()
        before: dict[str, int] = {}
        for part in range(
            4
        ):  # memory is compared between the end of the first part and that of all
            clients = [
                Client(f"{cell.seed} {part} {name} {number}", name, port)
                for name, port in servers.ports.items()
                for number in range(CLIENTS)
            ]
            counts = [max(1, cell.size // 4 // len(clients))] * len(clients)
            with ThreadPoolExecutor(len(clients)) as pool:
                list(pool.map(Client.send, clients, counts))
            for client in clients:
                statuses += client.statuses
                verdict.other += client.wrong
            before = before or servers.memory_bytes()
        after = servers.memory_bytes()
    verdict.other += [
        f"{name}: memory {before[name] / 1e6:.0f} MB, then {after[name] / 1e6:.0f} MB"
        for name in after
        if after[name] > before[name] * FLAT + SLACK_BYTES
    ]
    figures = {
        f"memory of {name}": f"{before[name] / 1e6:.0f} → {after[name] / 1e6:.0f} MB"
        for name in after
    }
    load = f"schemathesis, {statuses.total():,} raw requests"
    return cell.result("embedded broker, SQLite", load, statuses, verdict, figures)
