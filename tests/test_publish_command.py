"""feedbus publish: its options, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from feedbus import broker, config
from feedbus.broker_names import Names
from feedbus.bus import LiveBus
from feedbus.cli import main
from feedbus.topology import Topology

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
[queues.work]
exchange = "orders"
routing_keys = ["chair"]
handler = "app:work"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.chdir(tmp_path)
    return config.load(tmp_path / "topology.toml")


def publish(*arguments: str, body: str = '{"id": 1}') -> Result:
    return CliRunner().invoke(
        main, ["publish", "orders", "--key", "chair", "--json", body, *arguments]
    )


def taken(topology: Topology) -> Any:
    """Return the message that waits in the queue."""
    with broker.connect(topology) as connection, connection.channel() as channel:
        return channel.basic_get(Names(topology).unsharded(topology.queue("work")), no_ack=True)


def test_the_options_of_a_message_are_published(shop: Topology) -> None:
    options = ["--header", "source=web=1", "--priority", "5", "--expires", "10m"]
    done = publish(*options, "--message-id", "order-1")
    assert done.stdout == "1 message published to orders\n"
    message = taken(shop)
    assert message.headers["source"] == "web=1"
    assert message.properties["priority"] == 5
    assert message.properties["expiration"] == "600000"
    assert message.properties["message_id"].startswith("order-1")


def test_a_delayed_message_waits_on_the_broker(shop: Topology) -> None:
    assert publish("--delay", "1h", "--expires", "2h").exit_code == 0
    assert taken(shop) is None
    status = json.loads(CliRunner().invoke(main, ["status", "--json"]).stdout)
    assert status["broker"]["delayed"] == {"waiting": 1, "undelivered": 0}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--delay", "5s", "--expires", "2s"], "expires: expected more than the delay of 5 s"),
        (["--delay", "soon"], "expected a duration such as 30s or 5m, got 'soon'"),
        (["--priority", "256"], "256 is not in the range 0<=x<=255"),
        (["--header", "source"], "--header: expected NAME=TEXT, got 'source'"),
        (["--header", "feedbus-x=1"], "expected another name, got 'feedbus-x'"),
    ],
)
@pytest.mark.usefixtures("shop")
def test_a_wrong_option_is_refused_by_its_name(options: list[str], error: str) -> None:
    done = publish(*options)
    assert done.exit_code == 2
    assert error in done.output


@pytest.mark.usefixtures("shop")
def test_a_queue_in_place_of_an_exchange_is_refused_with_its_exchange() -> None:
    done = CliRunner().invoke(main, ["publish", "work", "--json", "{}"])
    assert done.exit_code == 1
    expected = "no exchange named 'work'; 'work' is a queue: publish to its exchange 'orders'"
    assert expected in done.output


@pytest.mark.usefixtures("shop")
def test_an_id_is_refused_for_a_file_of_messages(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"id": 1}\n')
    arguments = ["publish", "orders", "--key", "chair", "--file", "lines", "--message-id", "a"]
    done = CliRunner().invoke(main, arguments)
    assert "expected --message-id only with --json" in done.output


@pytest.mark.usefixtures("shop")
def test_a_body_that_is_not_json_is_reported_with_its_place(tmp_path: Path) -> None:
    assert publish(body="[1]").output == "error: --json: expected a JSON object, got '[1]'\n"
    (tmp_path / "lines").write_text('{"id": 1}\n[1]\n')
    done = CliRunner().invoke(main, ["publish", "orders", "--key", "chair", "--file", "lines"])
    assert done.exit_code == 1
    expected = (
        "lines:2: expected a JSON object, got '[1]'; published from the lines before it: 1 message"
    )
    assert f"error: {expected}\n" in done.output


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"id": NaN, "k": "chair"}', "cannot publish: field 'id': expected a number"),
        ('{"id": 1e999, "k": "chair"}', "cannot publish: field 'id': expected a number"),
        ('{"id": 1, "k": "' + "k" * 256 + '"}', "expected a routing key of at most 255 bytes"),
        ('{"feedbus-raw": "x", "k": "chair"}', "cannot publish Raw(…) to exchange 'orders'"),
        ('{"id": ' + "[" * 200 + "]" * 200 + ', "k": "chair"}', "nested too deeply"),
    ],
)
@pytest.mark.parametrize("options", [[], ["--priority", "1"]])
def test_a_message_that_cannot_be_published_is_reported_with_its_line(
    shop: Topology, tmp_path: Path, line: str, error: str, options: list[str]
) -> None:
    (tmp_path / "lines").write_text('{"id": 1, "k": "chair"}\n' * 3 + f"{line}\n")
    arguments = ["publish", "orders", "--key-field", "k", "--file", "lines", *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert done.output.startswith("error: lines:4: ")
    assert error in done.output
    assert done.output.endswith("; published from the lines before it: 3 messages\n")
    assert [taken(shop) is not None for _ in range(4)] == [True, True, True, False]


@pytest.mark.usefixtures("shop")
def test_the_error_of_returned_messages_says_how_many_were_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveBus, "PAIRS_AT_ONCE", 2)
    keys = ["chair"] * 4 + ["lamp"] + ["chair"]
    (tmp_path / "lines").write_text("".join(f'{{"k": "{key}"}}\n' for key in keys))
    arguments = ["publish", "orders", "--key-field", "k", "--file", "lines"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "the broker has confirmed the first 4 messages of lines" in done.output
