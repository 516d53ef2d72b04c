"""Commands that would use another broker than the running supervisor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedbus import config
from feedbus.supervisor import broker_mismatch
from feedbus.supervisor.applied_settings import write_broker
from tests.projects import environment_without_options, run_feedbus
from tests.slot_holders import python

URL = "${FEEDBUS_BROKER_URL:-sqlite:///var/broker.db}"
TOPOLOGY = f"""\
name = "shop"
[broker]
url = "{URL}"
[exchanges]
orders = {{ type = "direct" }}
[queues.work]
exchange = "orders"
routing_keys = ["chair"]
handler = "app:work"
"""
HANDLER = """\
from feedbus import Reject, handler
@handler
def work(message: dict) -> None:
    raise Reject("no")
"""
# Its argument is the lock file of a supervisor.
SUPERVISOR = """
import sys, time
from pathlib import Path
from feedbus.process.file_locks import take_lock
take_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""
PUBLISH = ("publish", "orders", "--key", "chair", "--json", '{"id": 1}')
ENVIRONMENT = environment_without_options()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "app.py").write_text(HANDLER)
    return tmp_path


@pytest.fixture
def service(folder: Path) -> Iterator[dict[str, str]]:
    """Start the project with a URL from its environment; yield this environment."""
    own = ENVIRONMENT | {"FEEDBUS_BROKER_URL": "sqlite:///var/service.db"}
    run_feedbus(folder, own, "up", "--detach")
    yield own
    run_feedbus(folder, ENVIRONMENT, "down")


def test_a_command_without_the_environment_of_the_service_uses_no_other_broker(
    folder: Path, service: dict[str, str]
) -> None:
    commands = (
        PUBLISH,
        ("plan",),
        ("apply",),
        ("apply", "--dry-run"),
        ("dead", "list"),
        ("dead", "show", "work", "1"),
        ("dead", "requeue", "work", "--all"),
        ("dead", "drop", "work", "1"),
        ("dead", "purge", "work", "--yes"),
    )
    for command in commands:
        error = run_feedbus(folder, ENVIRONMENT, *command, code=1).stderr
        assert f"uses broker sqlite:///{folder}/var/service.db" in error
        assert f"names broker sqlite:///{folder}/var/broker.db" in error
        assert "run the command with the same FEEDBUS_BROKER_URL as the supervisor" in error
    assert not (folder / "var" / "broker.db").exists()
    notes = json.loads(run_feedbus(folder, ENVIRONMENT, "status", "--json").stdout)["notes"]
    assert "same FEEDBUS_BROKER_URL" in notes[0]

    published = run_feedbus(folder, service, *PUBLISH)
    assert (published.stdout, published.stderr) == ("1 message published to orders\n", "")
    assert json.loads(run_feedbus(folder, service, "status", "--json").stdout)["notes"] == []


def test_a_changed_url_can_be_applied_and_other_commands_wait_for_that(
    folder: Path, service: dict[str, str]
) -> None:
    path = folder / "topology.toml"
    path.write_text(TOPOLOGY.replace(URL, "sqlite:///var/moved.db"))
    error = run_feedbus(folder, service, *PUBLISH, code=1).stderr
    assert "[broker] url in the file was changed: run `feedbus apply`" in error
    run_feedbus(folder, service, "apply", "--yes")
    run_feedbus(folder, service, *PUBLISH)
    # The environment does not matter for the new text.
    run_feedbus(folder, ENVIRONMENT, "plan", "--check")


@pytest.mark.parametrize(
    ("service_url", "own_url", "same"),
    [
        ("amqp://a:secret@rabbit//", "amqp://rabbit:5672//", True),
        ("amqp://a:secret@127.0.0.1/shop", "amqp://localhost/shop", True),
        ("amqps://a:secret@rabbit//", "amqp://a:secret@rabbit//", True),
        ("amqp://a:secret@one//;amqp://a:secret@two//", "amqp://a:b@two//", True),
        ("amqp://a:secret@rabbit//", "amqp://a:secret@other//", False),
        ("amqp://a:secret@rabbit/one", "amqp://a:secret@rabbit/two", False),
        ("amqp://a:secret@rabbit//", "", False),
    ],
)
def test_the_hosts_and_the_virtual_host_determine_the_broker(
    folder: Path, service_url: str, own_url: str, same: bool
) -> None:
    path = folder / "topology.toml"
    service = config.load(path, environ={"FEEDBUS_BROKER_URL": service_url})
    own = config.load(path, environ={"FEEDBUS_BROKER_URL": own_url})
    (folder / "var" / "run").mkdir(mode=0o700, parents=True)
    lock = folder / "var" / "run" / "supervisor.lock"
    with python(SUPERVISOR, lock) as supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        (folder / "var" / "run" / "applied.toml").write_text(TOPOLOGY)
        write_broker(service)
        note = broker_mismatch.other_broker(own)
    assert bool(note) != same
    assert "secret" not in note
    assert broker_mismatch.other_broker(own) == ""  # no supervisor runs


def test_publish_says_when_nobody_reads_the_embedded_broker(folder: Path) -> None:
    said = run_feedbus(folder, ENVIRONMENT, *PUBLISH).stderr
    assert said == (
        f"no consumer with the folder {folder}/var runs: messages wait in"
        f" sqlite:///{folder}/var/broker.db until `feedbus up`\n"
    )
    shown = run_feedbus(folder, ENVIRONMENT, "status").stdout
    assert f"supervisor  nothing runs in {folder}/var; start it with `feedbus up`\n" in shown
