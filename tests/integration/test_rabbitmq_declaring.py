"""RabbitMQ has the objects of the topology; if this is not possible, the reason is reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from feedbus import broker
from feedbus.broker import inventory
from feedbus.broker_names import Names
from feedbus.errors import BrokerOutage, Outage, UsageError, WrongBrokerSettings
from feedbus.generations import topology_setup
from feedbus.plan.planning import make_plan
from feedbus.store.peewee import close_bound
from feedbus.topology import Exchange
from feedbus.urls import parse_broker_url, parse_management_url
from servers.rabbitmq import RabbitMQ
from tests.small_topologies import queue, sharded
from tests.systems import System

pytestmark = pytest.mark.integration
PROJECT = Path(__file__).parents[2]

OPTIONS = {
    "classic": ({}, {}),
    "quorum": (
        {"type": "quorum", "delivery_limit": 7},
        {"x-queue-type": "quorum", "x-delivery-limit": 2**31 - 1},
    ),
    "single active": ({"single_active_consumer": True}, {"x-single-active-consumer": True}),
    "time to live": ({"message_ttl_seconds": 1.5}, {"x-message-ttl": 1500}),
    "length": ({"max_length": 5}, {"x-max-length": 5}),
    "overflow": (
        {"max_length": 5, "overflow": "reject-publish"},
        {"x-max-length": 5, "x-overflow": "reject-publish"},
    ),
    "the broker's own": ({"arguments": {"x-max-priority": 3}}, {"x-max-priority": 3}),
}


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


def had(node, kind: str, name: str) -> dict:
    """Return the objects of that name on the broker."""
    return json.loads(node.get(f"/api/{kind}/%2F/{quote(name, safe='')}"))


@pytest.mark.parametrize(("options", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_each_option_of_a_queue_arrives_at_the_broker(any_rabbitmq, tmp_path, options, expected):
    system = System.at(tmp_path, queue(**options), broker_url=any_rabbitmq.url)
    found = had(any_rabbitmq, "queues", f"{system.topology.name}.work")
    arguments = {
        name: value
        for name, value in found["arguments"].items()
        if not name.startswith("x-dead-letter")
    }
    assert found["durable"] is True
    assert found["arguments"]["x-dead-letter-routing-key"] == f"{system.topology.name}.work.dead"
    assert {"x-queue-type": "classic", **arguments} == {"x-queue-type": "classic", **expected}


def test_what_is_kept_beside_a_quorum_queue_is_as_durable(any_rabbitmq, tmp_path):
    system = System.at(tmp_path, sharded(2, type="quorum"), broker_url=any_rabbitmq.url)
    names = Names(system.topology)
    (shard,) = system.topology.queues.values()
    kept = [names.dead(shard), names.generations("ring"), names.held("ring")]
    kept += [names.retry_queue(shard, round(delay * 1000)) for delay in shard.retry.delays_seconds]
    found = [had(any_rabbitmq, "queues", name)["arguments"] for name in kept]
    assert [each["x-queue-type"] for each in found] == ["quorum"] * len(kept)
    delay = found[-1]
    assert (delay["x-dead-letter-strategy"], delay["x-overflow"]) == (
        "at-least-once",
        "reject-publish",
    )


def test_an_exchanges_type_and_arguments_arrive_at_the_broker(any_rabbitmq, tmp_path):
    system = System.at(tmp_path, queue(), broker_url=any_rabbitmq.url)
    lost = Exchange("lost", "topic", arguments={"alternate-exchange": "elsewhere"})
    changed = replace(system.topology, exchanges={**system.topology.exchanges, "lost": lost})
    topology_setup.set_up(changed)
    found = had(any_rabbitmq, "exchanges", f"{system.topology.name}.lost")
    assert (found["type"], found["durable"]) == ("topic", True)
    assert found["arguments"] == {"alternate-exchange": "elsewhere"}


MISMATCHES = {
    "type": (
        {},
        {"type": "quorum"},
        "x-queue-type is classic on the broker, but quorum in the topology (by type)",
    ),
    "single active": (
        {},
        {"single_active_consumer": True},
        "x-single-active-consumer is not set on the broker, but true in the topology",
    ),
    "time to live": (
        {"message_ttl_seconds": 1},
        {"message_ttl_seconds": 2},
        "x-message-ttl is 1000 on the broker, but 2000 in the topology (by message_ttl",
    ),
    "length": (
        {"max_length": 5},
        {},
        "x-max-length is 5 on the broker, but not set in the topology (by max_length)",
    ),
    "overflow": (
        {"overflow": "reject-publish"},
        {"overflow": "drop-head"},
        "x-overflow is reject-publish on the broker, but drop-head in the topology (by overflow)",
    ),
    "the broker's own": (
        {},
        {"arguments": {"x-max-priority": 3}},
        "x-max-priority is not set on the broker, but 3 in the topology;",
    ),
}


@pytest.mark.parametrize(("there", "wanted", "reported"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_mismatch_is_reported_by_argument_and_with_what_to_do(
    any_rabbitmq, tmp_path, there, wanted, reported
):
    system = System.at(tmp_path, queue(**there), broker_url=any_rabbitmq.url)
    name = f"{system.topology.name}.work"
    with pytest.raises(UsageError) as caught:
        system.reshaped(queue(**wanted))
    assert f"queue {name}: {reported}" in str(caught.value)
    assert "run `feedbus apply`, which replaces the queue" in str(caught.value)


def test_an_exchange_of_another_type_is_reported(any_rabbitmq, tmp_path):
    system = System.at(tmp_path, queue(), broker_url=any_rabbitmq.url)
    other = {**system.topology.exchanges, "work": Exchange("work", "topic")}
    with pytest.raises(
        UsageError,
        match="type is direct on the broker, but topic in the topology; run `feedbus apply`",
    ):
        topology_setup.set_up(replace(system.topology, exchanges=other))


def test_arguments_that_make_no_sense_are_reported_in_the_brokers_words(any_rabbitmq, tmp_path):
    with pytest.raises(UsageError, match=r"the broker refuses .*work: .*invalid arg"):
        System.at(
            tmp_path, queue(arguments={"x-queue-type": "nothing"}), broker_url=any_rabbitmq.url
        )


def test_dead_letters_stay_where_they_are_when_their_queue_becomes_quorum(any_rabbitmq, tmp_path):
    system = System.at(tmp_path, sharded(2), broker_url=any_rabbitmq.url)
    after = system.reshaped(sharded(2, type="quorum"))
    (shard,) = after.topology.queues.values()
    dead = had(any_rabbitmq, "queues", Names(after.topology).dead(shard))
    assert dead["arguments"].get("x-queue-type", "classic") == "classic"


def test_a_missing_plugin_is_named_with_the_command_that_enables_it(any_rabbitmq, tmp_path):
    plugin = "rabbitmq_consistent_hash_exchange"
    folder = tmp_path / "bare"
    folder.mkdir()
    bare = RabbitMQ(folder, version=any_rabbitmq.version)
    (folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
    with bare, pytest.raises(UsageError, match=f"rabbitmq-plugins enable {plugin}"):
        System.at(tmp_path, sharded(2), broker_url=bare.url)


def test_a_type_of_exchange_that_the_broker_does_not_know_is_refused(any_rabbitmq, tmp_path):
    system = System.at(tmp_path, queue(), broker_url=any_rabbitmq.url)
    unknown = {**system.topology.exchanges, "late": Exchange("late", "x-delayed-message")}
    with pytest.raises(UsageError, match=r"type 'x-delayed-message'; .*enable the plugin"):
        topology_setup.set_up(replace(system.topology, exchanges=unknown))


def test_a_classic_queue_is_classic_whatever_the_virtual_hosts_default(rabbitmq4, tmp_path):
    with rabbitmq4.virtual_host(default_queue_type="quorum") as space:
        url = rabbitmq4.url.removesuffix("/") + space
        system = System.at(tmp_path, queue(), sharded(2), broker_url=url)
        topology = replace(
            system.topology, management_url=parse_management_url(rabbitmq4.management_url)
        )
        found = inventory.read_inventory(topology).queues
        assert {one.arguments["x-queue-type"] for one in found.values()} == {"classic"}
        assert make_plan(topology, None, predict=False).empty


PUBLISH = ["publish", "publish_tweet", "--json", "{}", "--key", "a"]
REFUSALS = {
    "password": (("guest:wrong@", "/"), "check the user and the password"),
    "virtual host": (("guest:guest@", "nowhere"), "check the virtual host"),
}


@pytest.mark.parametrize(("place", "reported"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize(
    "command",
    [["up"], ["run", "publish_tweet"], ["dead", "list"], ["plan"], PUBLISH],
    ids=lambda command: command[0],
)
def test_a_refusal_is_reported_in_a_line(rabbitmq, tmp_path, place, reported, command):
    user, space = place
    url = f"amqp://{user}127.0.0.1:{rabbitmq.port}/{space}"
    environment = os.environ | {"FEEDBUS_VAR": str(tmp_path), "FEEDBUS_BROKER_URL": url}
    environment["FEEDBUS_DATABASE_URL"] = f"sqlite:///{tmp_path}/feeds.db"
    limited = [*command, "--max-runtime", "1s"] if command[0] == "run" else command
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", "--topology", str(PROJECT / "topology.toml"), *limited],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert reported in done.stderr
    assert "wrong" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "trying again" not in done.stderr
    # A consumer holds until it is let in; a command gives up.
    assert done.returncode == (0 if command[0] == "run" else 1)


def test_a_limit_of_connections_is_an_outage_that_can_end(any_rabbitmq, tmp_path):
    with any_rabbitmq.virtual_host() as space:
        url = any_rabbitmq.url.removesuffix("/") + space
        system = System.at(tmp_path, queue(), broker_url=url)
        limit = f"/api/vhost-limits/{space.removeprefix('/')}/max-connections"
        any_rabbitmq.request("PUT", limit, {"value": 0})
        with pytest.raises(BrokerOutage, match="close other connections, or raise the") as caught:
            broker.connect(system.topology)
        assert not isinstance(caught.value, WrongBrokerSettings)
        any_rabbitmq.request("DELETE", limit)
        broker.connect(system.topology).release()


def test_the_first_node_that_answers_is_taken(rabbitmq, tmp_path):
    urls = f"amqp://guest:guest@127.0.0.1:1//;{rabbitmq.url}"
    system = System.at(tmp_path, queue(), broker_url=urls)
    system.publish([1])
    system.run(system.note)
    assert system.seen == [1]
    nobody = "amqp://guest:secret@127.0.0.1:1//;amqp://guest:secret@127.0.0.1:2//"
    with pytest.raises(Outage, match="refused") as caught:
        broker.connect(replace(system.topology, broker_url=parse_broker_url(nobody)))
    assert "secret" not in str(caught.value)
