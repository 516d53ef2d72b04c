"""A command prints after a second which server it waits for, and the longest time."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus.cli import main
from feedbus.process.slow_server_notices import SlowServerNotices
from tests.projects import PATIENCE_SECONDS

TOPOLOGY = """\
name = "shop"
[broker]
url = "amqp://ann:secret@127.0.0.1:{}//"
[exchanges]
orders = {{ type = "direct" }}
[queues.work]
exchange = "orders"
routing_keys = ["chair"]
handler = "app:work"
"""


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    """A port on which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def output(folder: Path, port: int, *words: str, code: int = 1) -> str:
    path = folder / "topology.toml"
    path.write_text(TOPOLOGY.format(port))
    done = CliRunner().invoke(main, ["--topology", str(path), *words])
    assert done.exit_code == code
    return done.output


def test_a_notice_is_shown_during_a_long_wait() -> None:
    notices, shown, lines = SlowServerNotices(), threading.Event(), []
    notices.show_with(lambda line: (lines.append(line), shown.set()))
    with notices.during("waiting"):
        assert shown.wait(PATIENCE_SECONDS)
    assert lines == ["waiting"]


def test_without_a_command_no_thread_is_started_for_a_notice() -> None:
    before = threading.active_count()
    with SlowServerNotices().during("waiting"):
        assert threading.active_count() == before


def test_a_command_says_that_it_waits_for_a_silent_broker(tmp_path: Path, silent: int) -> None:
    broker = f"broker amqp://ann:***@127.0.0.1:{silent}//"
    assert output(tmp_path, silent, "dead", "list").splitlines() == [
        f"waiting for {broker} to answer, at most 5 s",
        (
            f"error: {broker}: timed out; check that the broker runs and that its host and port in"
            " [broker] url are right"
        ),
    ]


def test_publish_says_that_it_tries_again(tmp_path: Path, closed: int) -> None:
    broker = f"broker amqp://ann:***@127.0.0.1:{closed}//"
    words = ("publish", "orders", "--key", "chair", "--json", "{}")
    assert output(tmp_path, closed, *words).splitlines() == [
        f"{broker} is not available; trying again for at most 10 s",
        (
            f"error: {broker}: [Errno 111] Connection refused; start the broker, or correct"
            " [broker] url; the message may be published or not"
        ),
    ]


def test_a_plan_without_a_broker_does_not_ask_for_the_management_api(
    tmp_path: Path, closed: int
) -> None:
    assert "management" not in output(tmp_path, closed, "plan")
