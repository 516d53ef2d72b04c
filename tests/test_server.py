from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.projects import PATIENCE_SECONDS
from tests.site import ROOT, fresh_site

pytestmark = pytest.mark.processes


@contextmanager
def command(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run python -m web in the project with its state in a folder."""
    environment = {
        **os.environ,
        "FEEDBUS_VAR": str(folder),
        "FEEDBUS_BROKER_URL": f"sqlite:///{folder}/broker.db",
        "FEEDBUS_DATABASE_URL": f"sqlite:///{folder}/feeds.db",
        **environ,
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "web", *arguments],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def logged(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    """Read what a process logs up to a line that has a pattern."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found
    pytest.fail(f"it ended without logging {pattern}")


def listening_port(process: subprocess.Popen[str]) -> int:
    return int(logged(process, r"listening on http://127\.0\.0\.1:(\d+)\b")[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused_without_a_token(tmp_path, host):
    with command(tmp_path, "--host", host, "--port", "0", FEEDBUS_API_TOKEN=" ") as process:
        _, reported = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode in ({2} if host != "192.0.2.1" else {1, 2})
    assert reported.startswith("error: ")
    assert "Traceback" not in reported
    if host != "192.0.2.1":
        assert "FEEDBUS_API_TOKEN" in reported


def test_a_port_in_use_is_reported_without_a_traceback(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with command(tmp_path, "--port", str(port)) as process:
            _, reported = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert f"port {port}" in reported
    assert "--port" in reported
    assert "Traceback" not in reported


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_after_the_requests_in_flight(tmp_path, number):
    with fresh_site(tmp_path) as prepared:
        author = prepared.user("author")
    with command(tmp_path, "--port", "0") as process:
        port = listening_port(process)
        body = json.dumps({"userId": author, "text": "Hello"}).encode()
        head = (
            "POST /api/v1/post-tweet HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Expect: 100-continue\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(head.encode() + body[:5])
            assert connection.recv(1_000).startswith(b"HTTP/1.1 100 ")  # the request has begun
            process.send_signal(number)
            logged(process, "event=stopping")
            connection.sendall(body[5:])
            assert connection.recv(1_000).startswith(b"HTTP/1.1 202 ")
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        logged(process, "event=stopped")


def test_a_wrong_topology_is_reported_line_by_line(tmp_path):
    wrong = tmp_path / "topology.toml"
    wrong.write_text("name = 3\n")
    with command(tmp_path, "--topology", str(wrong), "--port", "0") as process:
        _, reported = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert "topology.toml:1:" in reported
    assert "Traceback" not in reported
