"""The files for a deployment: Compose, the image, Prometheus, Grafana."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from feedbus import config
from feedbus.cli import main
from feedbus.operations.access_control import Guard
from servers import prometheus as monitoring
from servers.compose import COMPOSE, PROJECT, Compose, Unset
from servers.prometheus import Prometheus
from tests.operations import served
from tests.projects import wait_until
from tests.required_servers import PROMETHEUS, missing
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System

pytestmark = pytest.mark.processes

TEXT = COMPOSE.read_text()
SET = {"FEEDBUS_API_TOKEN": "a-token"}
DEPLOY = PROJECT / "deploy"


RULES = ("rules.yml", "web_rules.yml")


def alerts():
    """Return the names of the shipped alerts."""
    groups = [
        group
        for name in RULES
        for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    ]
    return [rule["alert"] for group in groups for rule in group["rules"]]


@pytest.fixture
def compose():
    return Compose.read(SET)


@pytest.fixture
def promtool():
    if not monitoring.is_installed():
        missing(PROMETHEUS)

    def check(*words):
        done = subprocess.run(
            ["promtool", *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return check


def test_the_compose_file_follows_the_compose_specification():
    check = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", COMPOSE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_api_token_has_to_be_set():
    with pytest.raises(Unset, match="requests must send"):
        Compose.read({})


def test_every_password_is_a_variable_whose_default_is_marked_for_development():
    secrets = [line for line in TEXT.splitlines() if re.search(r"(?i)pass(word)?[:}:-]", line)]
    assert len(secrets) == 5
    for line in secrets:
        assert re.search(r"\$\{\w+:-feedbus-development\}.*# development default$", line), line
    changed = {f"{who}_PASSWORD": f"its-{who}" for who in ("RABBITMQ", "POSTGRES", "GRAFANA")}
    services = str(Compose.read({**SET, **changed}).services)
    assert "development" not in services
    assert all(password in services for password in changed.values())


def test_every_image_is_pinned_to_a_release(compose):
    images = [service["image"] for service in compose.services.values()]
    images += re.findall("^FROM (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(images) == 7
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-[a-z-]+)?$", image), image
    assert compose.services["rabbitmq"]["image"].startswith("rabbitmq:4.")


def test_every_port_is_published_on_this_machine_alone(compose):
    ports = [port for service in compose.services.values() for port in service.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_waited_for_can_be_waited_for(compose):
    for service in compose.services.values():
        for name, condition in service.get("depends_on", {}).items():
            awaited = compose.services[name]
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in awaited, name
            else:
                assert condition["condition"] == "service_completed_successfully"
                assert awaited["restart"] == "no"
    before = compose.services["app"]["depends_on"]
    assert set(before) == {"migrate", "rabbitmq"}


def test_every_file_that_is_mounted_exists(compose):
    mounted = [
        volume.split(":")[0]
        for service in compose.services.values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]
    assert len(mounted) == 6
    assert [path for path in mounted if not (PROJECT / path).exists()] == []


def test_the_image_is_made_of_files_that_exist_and_are_let_in():
    """It also has everything that the topology names: its commands, handlers and processes."""
    copied = set()
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied |= set(line.split()[1:-1])
    assert [name for name in copied if not (PROJECT / name).exists()] == []
    patterns = (PROJECT / ".dockerignore").read_text().split()
    assert [name for name in copied if ignored(name, patterns)] == []
    assert ignored("var", patterns)
    topology = config.load(PROJECT / "topology.toml", environ={})
    named = {queue.handler.split(".")[0] for queue in topology.queues.values()}
    named |= {command.split(".")[0] for command in topology.commands.values()}
    named |= {process.command[-1] for process in topology.processes.values()}
    assert named | {"topology.toml", "feedbus"} <= copied


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether the last pattern that fits a name leaves it out, as the builder reads them."""
    verdict = False
    for pattern in patterns:
        if fnmatch.fnmatch(name, pattern.removeprefix("!")):
            verdict = not pattern.startswith("!")
    return verdict


def test_the_application_is_given_every_variable_that_its_topology_asks_for(compose):
    environment = compose.environment("app")
    topology = config.load(PROJECT / "topology.toml", environ=environment)
    who = "feedbus:feedbus-development"
    assert topology.broker_url.reveal() == f"amqp://{who}@rabbitmq:5672//"
    assert topology.store_url.reveal() == f"postgresql://{who}@postgres:5432/feedbus"
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    kept = re.search(r"FEEDBUS_VAR=(\S+)", dockerfile)[1]
    assert f"VOLUME {kept}\n" in dockerfile
    assert any(volume.endswith(f":{kept}") for volume in compose.services["app"]["volumes"])


def test_promtool_takes_the_shipped_configuration(promtool, tmp_path):
    shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    # promtool wants to see the file of the token, which is a secret of Compose.
    assert shipped["scrape_configs"][0]["authorization"] == {
        "credentials_file": "/run/secrets/feedbus_api_token"
    }
    server = Prometheus(
        tmp_path, {"feedbus": "app:8672", "web": "app:8080", "rabbitmq": "rabbitmq:15692"}, "token"
    )
    promtool("check", "config", server.folder / "prometheus.yml")
    for name in RULES:
        promtool("check", "rules", DEPLOY / "prometheus" / name)


def test_each_alert_is_raised_by_what_it_is_for_and_by_nothing_else(promtool):
    trials = Path(__file__).parent / "data/alerts.yml"
    promtool("test", "rules", trials)
    tried = set(re.findall(r"alertname: (\w+)", trials.read_text()))
    assert tried == set(alerts())


def test_the_page_of_operations_says_what_to_do_for_every_alert():
    page = (PROJECT / "docs/operations.md").read_text()
    assert [name for name in alerts() if f"| `{name}` |" not in page] == []


def test_the_command_prints_the_shipped_alerts():
    printed = CliRunner().invoke(main, ["alerts"]).output
    assert printed == (DEPLOY / "prometheus/rules.yml").read_text()


@pytest.mark.integration
def test_prometheus_shows_the_token_where_operations_ask_for_it(promtool, tmp_path):
    (tmp_path / "prometheus").mkdir()
    guard = Guard(b"a-token", loopback=False)
    with closing_store(), served(System.at(tmp_path, queue()), guard) as own:
        assert own.get("/metrics").status == 401
        targets = {"feedbus": f"127.0.0.1:{own.port}"}
        with Prometheus(tmp_path / "prometheus", targets, "a-token") as server:
            wait_until(lambda: server.value("up") is not None)
            assert server.value("up") == 1


def test_grafana_finds_the_dashboards_and_prometheus_where_compose_puts_them(compose):
    provisioning = DEPLOY / "grafana/provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())
    assert sources["datasources"][0]["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    interval = scraped["global"]["scrape_interval"]
    assert sources["datasources"][0]["jsonData"]["timeInterval"] == interval
    providers = yaml.safe_load((provisioning / "dashboards/feedbus.yml").read_text())
    path = providers["providers"][0]["options"]["path"]
    mounts = compose.services["grafana"]["volumes"]
    assert f"./deploy/grafana/dashboards:{path}:ro" in mounts
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts
    targets = [job["static_configs"][0]["targets"][0] for job in scraped["scrape_configs"]]
    assert all(target.split(":")[0] in compose.services for target in targets)
