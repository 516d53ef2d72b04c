"""The permissions and the tag of RabbitMQ's user that docs/operations.md names are enough."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.rabbitmq import RabbitMQ
from tests.pages import DOCS
from tests.projects import environment_without_options, run_feedbus, wait_until

pytestmark = pytest.mark.integration
TOPOLOGY = """\
name = "shop"
[broker]
url = "${FEEDBUS_BROKER_URL}"
management = "${MANAGEMENT_URL}"
[exchanges]
orders = { type = "x-consistent-hash" }
receipts = { type = "topic" }
[defaults.queue]
type = "quorum"
[queues.reserve]
exchange = "orders"
shards = 2
handler = "app:reserve"
[queues.mail]
exchange = "receipts"
routing_keys = ["mail.#"]
handler = "app:mail"
retry = { delays = ["100ms"], then = "dead-letter" }
[schedules.nightly]
cron = "0 3 * * *"
exchange = "receipts"
key = "mail.ann"
"""
HANDLERS = """\
from feedbus import Bus, handler
@handler
def reserve(order: dict, bus: Bus) -> None:
    bus.publish("receipts", order, key="mail.ann", delay="100ms")
@handler
def mail(order: dict) -> None:
    raise ValueError("no mail server")
"""
PUBLISH = ("publish", "orders", "--key", "chair", "--json", '{"id": 1}')


def documented_patterns() -> list[str]:
    """Return the patterns for configure, write and read of the command on the page."""
    command = re.search(r"set_permissions -p / shop (.*)", (DOCS / "operations.md").read_text())
    assert command is not None
    return re.findall(r"'([^']+)'", command[1])


@pytest.fixture
def environment(any_rabbitmq: RabbitMQ, tmp_path: Path) -> Iterator[dict[str, str]]:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "app.py").write_text(HANDLERS)
    node = any_rabbitmq
    with node.virtual_host() as host:
        node.request("PUT", "/api/users/shop", {"password": "secret", "tags": "management"})
        names = ("configure", "write", "read")
        rights = dict(zip(names, documented_patterns(), strict=True))
        node.request("PUT", f"/api/permissions/{host}/shop", rights)
        place = node.management_url.partition("://")[2]
        yield environment_without_options() | {
            "FEEDBUS_BROKER_URL": f"amqp://shop:secret@127.0.0.1:{node.port}/{host}",
            "MANAGEMENT_URL": f"http://shop:secret@{place}",
        }
        node.request("DELETE", "/api/users/shop")


def test_the_documented_permissions_are_enough_for_every_command(
    environment: dict[str, str], tmp_path: Path, any_rabbitmq: RabbitMQ
) -> None:
    def feedbus(*words: str, code: int = 0) -> str:
        done = run_feedbus(tmp_path, environment, *words, code=code)
        return done.stdout + done.stderr

    feedbus("up", "--detach")
    try:
        feedbus(*PUBLISH)
        wait_until(lambda: "no mail server" in feedbus("dead", "list"))
        feedbus("dead", "requeue", "mail", "--all")
        wait_until(lambda: "no mail server" in feedbus("dead", "list"))
        path = tmp_path / "topology.toml"
        path.write_text(TOPOLOGY.replace("shards = 2", "shards = 3"))
        assert "2 shards become 3" in feedbus("plan")
        feedbus("apply", "--yes")
        path.write_text(path.read_text().replace("mail.#", "mail.ann"))
        feedbus("apply", "--yes")
        feedbus(*PUBLISH, "--delay", "100ms")
        found = json.loads(feedbus("status", "--json"))
        assert found["broker"]["error"] == ""
        any_rabbitmq.request("PUT", "/api/users/shop", {"password": "secret", "tags": ""})
        assert "that has the tag 'monitoring' or 'management'" in feedbus("plan", code=1)
        feedbus(*PUBLISH)
    finally:
        feedbus("down")
