"""Commands that connect to nothing do not need the variables of connections."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from feedbus import broker, config
from feedbus.cli import main
from feedbus.errors import TopologyError, UsageError
from feedbus.testing import TestSystem

TOPOLOGY = """\
name = "shop"
[broker]
url = "amqp://user:${UNSET_PASSWORD}@rabbit.example//"
management = "https://${UNSET_PASSWORD}@rabbit.example:15671"
[store]
url = "postgresql://user:${UNSET_PASSWORD}@db.example/shop"
[exchanges]
orders = { type = "x-consistent-hash" }
[queues.reserve]
exchange = "orders"
shards = 2
handler = "tests.handlers_to_run:undone"
[processes.web]
command = "python -m web"
environment = { TOKEN = "${UNSET_TOKEN}" }
"""
OTHERS = {
    "its name": ('"shop"', '"${UNSET_NAME}"'),
    "its folder": ("[broker]", 'var = "${UNSET_VAR}"\n[broker]'),
    "no end of a variable": ("rabbit.example//", "${UNSET"),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "topology.toml"
    path.write_text(TOPOLOGY)
    return path


def test_a_topology_without_connections_has_everything_but_their_addresses(file):
    topology = config.load(file, environ={}, connects=False)
    assert [*topology.consumers, *topology.processes] == ["reserve_0", "reserve_1", "web"]
    assert topology.store_url is topology.management_url is None
    with pytest.raises(
        UsageError,
        match=r"^\[broker\] url: expected a URL, got an environment variable that is not set; ",
    ):
        broker.connect(topology)
    with pytest.raises(TopologyError) as raised:
        config.load(file, environ={})
    assert [each.line for each in raised.value.problems] == [3, 4, 6, 15]


@pytest.mark.parametrize(("before", "after"), OTHERS.values(), ids=OTHERS)
def test_any_other_variable_is_needed(file, before, after):
    file.write_text(TOPOLOGY.replace(before, after, 1))
    with pytest.raises(TopologyError, match=r"UNSET|expected"):
        config.load(file, environ={}, connects=False)


COMMANDS = {
    "down": "nothing runs in",
    "restart": "nothing runs in",
    "spread reserve --keys keys": "reserve_1",
    "balance reserve --keys keys": "reserve_1",
    "grafana": "shop",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_connects_to_nothing_needs_no_variables(file, monkeypatch, command):
    monkeypatch.chdir(file.parent)
    (file.parent / "keys").write_text("".join(f"{number}\n" for number in range(100)))
    assert COMMANDS[command] in CliRunner().invoke(main, command.split()).output


@pytest.mark.parametrize("command", ["status", "plan", "check", "balance reserve --query x"])
def test_a_command_that_connects_names_the_variables(file, monkeypatch, command):
    monkeypatch.chdir(file.parent)
    found = CliRunner().invoke(main, command.split())
    assert found.exit_code == 1
    assert "variable UNSET_PASSWORD is not set and has no default" in found.output


def test_a_system_under_test_needs_no_address_of_a_broker(file):
    file.write_text(TOPOLOGY.replace("[store]\nurl", "# url"))
    with TestSystem(file) as system:
        system.publish("orders", {"n": 1}, key="chair")
        system.run()
        assert len(system.handled("reserve")) == 1
