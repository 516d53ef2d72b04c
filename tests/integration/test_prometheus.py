"""The services of docker-compose.yml, run without containers, with its Prometheus."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from feedbus import config
from servers import prometheus as monitoring
from servers.compose import PROJECT, Compose
from servers.ports import free_port
from servers.postgres import binary
from servers.prometheus import Prometheus
from servers.shipped import ShippedRabbitMQ
from store.models import Follower
from tests import required_servers as required
from tests.projects import PATIENCE_SECONDS, status, wait_until
from tests.required_servers import PROMETHEUS, missing
from web.demo.tally import Tally

pytestmark = pytest.mark.integration

TOKEN = "a-token-of-this-test"
PROGRAMS = Path(sys.executable).parent
SHARDS = 'consumer=~"update_feed_.*"'
HANDLED = f'sum by (consumer) (feedbus_records_total{{{SHARDS},verdict="ack"}})'


@dataclass(frozen=True, slots=True)
class Stack:
    """The running services: broker, store, application, Prometheus."""

    compose: Compose
    rabbitmq: ShippedRabbitMQ
    environment: dict[str, str]
    port: int
    operations_port: int
    prometheus: Prometheus
    postgres_port: int

    @property
    def topology(self):
        """The topology as the application reads it."""
        return config.load(PROJECT / "topology.toml", environ=self.environment)

    @contextmanager
    def application(self, log: Path):
        """Run the application as Compose does, until the block ends."""
        words = self.compose.command("app")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program(words[0]), *words[1:]],
                cwd=PROJECT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        try:
            wait_until(
                lambda: b" processes are ready" in log.read_bytes() or process.poll() is not None
            )
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
        assert process.returncode == 0

    def run(self, words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [program(words[0]), *words[1:]],
            cwd=PROJECT,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def post(self, path: str, **fields: Any) -> dict[str, Any]:
        """Send a request to the application."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(fields).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def tweet(self, author: int, count: int) -> None:
        """Post so many tweets."""
        for number in range(count):
            self.post("/api/v1/post-tweet", userId=author, text=f"tweet {number}")

    def followers(self) -> int:
        """Count the followers that the application has created."""
        with Tally(self.topology):
            return Follower.select().count()

    def pid(self, consumer: str) -> int | None:
        """Return the process that runs a consumer, None when there is none."""
        reported = status(self.topology.path, self.environment)
        processes = reported["consumers"][consumer]["processes"]
        return processes[0]["pid"] if processes else None


def program(name: str) -> str:
    """Find a program as a container's path would."""
    return str(PROGRAMS / name) if (PROGRAMS / name).exists() else name


@pytest.fixture(scope="module")
def stack(tmp_path_factory, postgres):
    required.rabbitmq()
    if not monitoring.is_installed():
        missing(PROMETHEUS)
    folder = tmp_path_factory.mktemp("stack")
    compose = Compose.read({"FEEDBUS_API_TOKEN": TOKEN})
    port, operations_port = free_port(), free_port()
    with ExitStack() as running:
        node = running.enter_context(ShippedRabbitMQ(made(folder / "rabbitmq"), compose))
        postgres.sql("CREATE DATABASE feedbus")
        running.callback(postgres.sql, "DROP DATABASE feedbus WITH (FORCE)")
        environment = {
            **{name: text for name, text in os.environ.items() if "FEEDBUS" not in name},
            **compose.environment(
                "app", rabbitmq=f"127.0.0.1:{node.port}", postgres=f"127.0.0.1:{postgres.port}"
            ),
            "FEEDBUS_VAR": str(folder / "var"),
            "FEEDBUS_HTTP_HOST": "127.0.0.1",
            "FEEDBUS_HTTP_PORT": str(port),
            "FEEDBUS_OPERATIONS_HOST": "127.0.0.1",
            "FEEDBUS_OPERATIONS_PORT": str(operations_port),
        }
        targets = {
            "feedbus": f"127.0.0.1:{operations_port}",
            "web": f"127.0.0.1:{port}",
            "rabbitmq": f"127.0.0.1:{node.prometheus_port}",
        }
        prometheus = Prometheus(made(folder / "prometheus"), targets, TOKEN)
        whole = Stack(compose, node, environment, port, operations_port, prometheus, postgres.port)
        migrated = whole.run(compose.command("migrate"))
        assert migrated.returncode == 0, migrated.stderr
        running.enter_context(whole.application(folder / "up.log"))
        running.enter_context(prometheus)
        yield whole


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def author(stack):
    """A user with 300 followers, whose 20 tweets were handled."""
    ask = stack.prometheus
    seen = "count(count by (consumer) (feedbus_records_total))"
    wait_until(lambda: ask.value(seen) == len(stack.topology.consumers))
    made = stack.post("/api/v2/user", login="ann", email="ann@example.org")["id"]
    follow = {"userId": made, "followerLogin": "reader", "count": 300}
    stack.post("/api/v1/add-followers", **follow)
    wait_until(lambda: stack.followers() == 300)
    stack.tweet(made, 20)
    wait_until(lambda: sum(ask.values(HANDLED, "consumer").values()) == 6000)
    return made


def test_each_shards_counter_is_what_its_shard_handled_across_a_kill(stack, author):
    ask = stack.prometheus
    before = stack.pid("update_feed_3")
    os.kill(before, signal.SIGKILL)
    stack.tweet(author, 10)
    wait_until(lambda: sum(ask.values(HANDLED, "consumer").values()) >= 9000)

    assert stack.pid("update_feed_3") not in {before, None}
    with Tally(stack.topology) as tally:
        assert tally.stored().entries == 9000
        # While a scrape is late, Prometheus has no value.
        wait_until(lambda: ask.values(HANDLED, "consumer") == tally.by_shard())
        wait_until(lambda: tally.stored() == tally.expected())
        notified = tally.stored().emails + tally.stored().messages
    sent = 'sum(feedbus_records_total{consumer=~"send_notification.*",verdict="ack"})'
    wait_until(lambda: ask.value(sent) == notified)
    # It went on counting where the killed process had stopped.
    assert ask.value(f"sum(resets(feedbus_records_total{{{SHARDS}}}[10m]))") == 0
    wait_until(lambda: ask.value("sum(feedbus_misplaced_deliveries_total)") == 0)
    wait_until(lambda: ask.value("sum(feedbus_dead_letters)") == 0)


def test_every_panel_of_the_dashboard_has_data(stack, author):
    shown = json.loads((PROJECT / "deploy/grafana/dashboards/feedbus.json").read_text())
    questions = {
        # Without retries there is a series of ages, and nothing to draw.
        "feedbus_age_seconds_count"
        if "feedbus_age_seconds" in target["expr"]
        else meant(target["expr"]): panel["title"]
        for panel in shown["panels"]
        for target in panel.get("targets", ())
    }
    assert len(questions) > 30

    def without_data() -> set[str]:
        return {title for expr, title in questions.items() if empty(stack.prometheus, expr)}

    wait_until(lambda: not without_data(), without_data)


def empty(prometheus: Prometheus, expr: str) -> bool:
    values = [float(series["value"][1]) for series in prometheus.query(expr)]
    return not any(map(math.isfinite, values))


def meant(expr: str) -> str:
    """Replace the variables as Grafana does."""
    for variable, value in {
        "$job": ".*",
        "$__rate_interval": "5m",
        "$__range": "10m",
    }.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr
    return expr


def test_the_broker_is_scraped_and_every_rule_can_be_evaluated(stack):
    ask = stack.prometheus
    wait_until(lambda: ask.values("up", "job") == {"feedbus": 1, "web": 1, "rabbitmq": 1})
    assert ask.value("sum(rabbitmq_queues)") > 20
    shipped = {"FeedbusHolding", "FeedbusQueueStalled", "FeedbusDeadLetters"}
    wait_until(lambda: all(rule["health"] == "ok" for rule in rules(ask)))
    assert {rule["name"] for rule in rules(ask)} > shipped


def rules(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]


def test_the_health_checks_of_compose_are_passed_by_what_they_check(stack):
    check = stack.compose.health("app")
    here = [word.replace(":8672/", f":{stack.operations_port}/") for word in check]
    assert here != check
    assert stack.run(here).returncode == 0
    name, *words = stack.compose.health("postgres")
    ready = stack.run([str(binary(name)), *words], PGPORT=str(stack.postgres_port))
    assert ready.returncode == 0
    name, *words = stack.compose.health("rabbitmq")
    stack.rabbitmq.control(*words, tool=name)


def test_the_broker_runs_with_the_shipped_settings(stack):
    reported = stack.rabbitmq.control(
        "eval",
        "[application:get_env(rabbit, Key) || Key <- [default_worker_pool_size, "
        "vm_memory_high_watermark, max_message_size, consumer_timeout, queue_leader_locator]].",
    )
    assert "".join(reported.split()) == (
        '[{ok,1},{ok,0.6},{ok,16777216},{ok,1800000},{ok,<<"balanced">>}]'
    )
    users = stack.rabbitmq.control("-q", "list_users")
    assert [line.split()[0] for line in users.splitlines()[1:]] == ["feedbus"]
