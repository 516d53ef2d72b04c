"""Exchanges and queues that other systems declare: used as they are, never declared or deleted."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue

from feedbus import Reject, broker, config
from feedbus.apply import apply, exclusive
from feedbus.broker import inventory
from feedbus.broker.kinds import select_broker
from feedbus.dead_letters.requeue import Requeue
from feedbus.errors import TopologyError, UsageError
from feedbus.generations import topology_setup
from feedbus.plan.planning import make_plan
from feedbus.store.no_store import NoStore
from feedbus.testing import TestSystem
from feedbus.topology import Exchange as TopologyExchange
from feedbus.topology import Topology
from servers import versions
from tests.systems import System, publish_confirmed

BROKEN = {
    "pack": ("[exchanges.legacy]\npack = 5", "[exchanges.legacy] pack: cannot be combined with"),
    "arguments": ("[exchanges.legacy]\narguments = {}", "legacy] arguments: has no effect"),
    "a ring": (
        '[exchanges.ring]\ntype = "x-consistent-hash"\nname = "erp.ring"\nexternal = true',
        "[exchanges.ring] type: an external exchange cannot have shards",
    ),
    "no name": (
        '[exchanges.new]\ntype = "topic"\nexternal = true',
        '[exchanges.new] external: expected name = "…" as well',
    ),
    "a name alone": (
        '[exchanges.new]\ntype = "topic"\nname = "erp.new"',
        "[exchanges.new] name: has no effect without external = true",
    ),
    "a prefix of ours": (
        '[exchanges.new]\ntype = "topic"\nname = "shop.new"\nexternal = true',
        "[exchanges.new] name: expected a name that does not begin with 'shop.'",
    ),
    "the default exchange": (
        '[exchanges.new]\ntype = "direct"\nname = "amq.default"\nexternal = true',
        "[exchanges.new] name: expected another exchange",
    ),
    "an empty name": (
        '[exchanges.new]\ntype = "direct"\nname = ""\nexternal = true',
        "[exchanges.new] name: expected a name of 1 to 255 bytes, got ''",
    ),
    "a long name": (
        f'[exchanges.new]\ntype = "direct"\nname = "{128 * "é"}"\nexternal = true',
        "[exchanges.new] name: expected a name of 1 to 255 bytes",
    ),
    "a name twice": (
        '[exchanges.new]\ntype = "direct"\nname = "erp.events"\nexternal = true',
        "[exchanges.new] name: 'erp.events' is already the name in [exchanges.legacy]",
    ),
    "a queue's name twice": (
        '[queues.more]\nhandler = "app:take"\nname = "erp.orders"\nexternal = true',
        "[queues.more] name: 'erp.orders' is already the name in [queues.legacy_orders]",
    ),
    "a name for all queues": (
        "[defaults.queue]\nexternal = true",
        "[defaults.queue] external: cannot be inherited",
    ),
} | {
    f"a queue's {option.split()[0]}": (
        f"[queues.legacy_orders]\n{option}",
        f"[queues.legacy_orders] {option.split()[0]}: has no effect with external = true",
    )
    for option in (
        *('exchange = "legacy"', 'routing_keys = ["a"]', "shards = 3", "weight = 2"),
        *('type = "quorum"', "single_active_consumer = true", 'message_ttl = "5s"'),
        *("max_length = 5", "arguments = { x-max-priority = 3 }"),
    )
}  # fmt: skip

TOPOLOGY = """
name = "shop"
[broker]
url = "<url>"
<management>
[defaults.queue]
message_ttl = "1h"
[exchanges.legacy]
type = "topic"
name = "erp.events"
external = true
[queues.invoices]
exchange = "legacy"
routing_keys = ["invoice.#"]
handler = "app:take"
retry = { delays = ["1s"], then = "dead-letter" }
[queues.legacy_orders]
name = "erp.orders"
external = true
handler = "app:take"
retry = { delays = ["1s"], then = "dead-letter" }
"""
HANDLERS = """
from feedbus import Bus, Message, handler

taken = []

@handler
def take(payload: dict, message: Message, bus: Bus) -> None:
    taken.append((payload["n"], message.routing_key, message.attempt))
    if payload["n"] < 0:
        raise ValueError("negative")
    if payload["n"] > 100:
        bus.publish("legacy", {"n": payload["n"] - 100}, key="invoice.paid")
"""
numbers = itertools.count()


def load(folder: Path, text: str = TOPOLOGY, **values: str) -> Topology:
    values = {"url": "sqlite:///broker.db", "management": "", **values}
    for name, value in values.items():
        text = text.replace(f"<{name}>", value)
    module = f"external_{next(numbers)}"
    (folder / f"{module}.py").write_text(HANDLERS)
    path = folder / "topology.toml"
    path.write_text(text.replace("app:", f"{module}:"))
    return config.load(path)


@pytest.mark.parametrize(("more", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_topology_that_would_declare_what_is_external_is_refused(tmp_path, more, expected):
    table, _, options = more.partition("\n")
    text = TOPOLOGY if table in TOPOLOGY else f"{TOPOLOGY}{table}\n"
    with pytest.raises(TopologyError) as caught:
        load(tmp_path, text.replace(table, more) if table in TOPOLOGY else text + options)
    assert expected in str(caught.value)


def test_what_the_defaults_say_of_declaring_is_not_inherited_by_an_external_queue(tmp_path):
    queues = load(tmp_path).queues
    assert queues["legacy_orders"].message_ttl_seconds is None
    assert queues["invoices"].message_ttl_seconds == 3600


def test_a_handler_publishes_to_an_external_exchange_and_takes_from_an_external_queue(tmp_path):
    with TestSystem(load(tmp_path)) as system:
        system.deliver("legacy_orders", {"n": 101}, key="order.new")
        system.publish("legacy", {"n": 2}, key="order.of.nobody")
        system.run()
        assert [each.payload for each in system.handled("legacy_orders")] == [{"n": 101}]
        assert [each.payload for each in system.handled("invoices")] == [{"n": 1}]
        assert system.dead_letters() == []


def test_a_failed_message_of_an_external_queue_is_retried_and_becomes_a_dead_letter(tmp_path):
    with TestSystem(load(tmp_path)) as system:
        system.deliver("legacy_orders", {"n": -1}, key="order.new")
        system.run()
        assert len(system.handled("legacy_orders")) == 2
        (letter,) = system.dead_letters("legacy_orders")
        assert (letter.key, letter.attempts) == ("order.new", 2)


def test_only_an_external_queue_is_delivered_to(tmp_path):
    with TestSystem(load(tmp_path)) as system, pytest.raises(UsageError, match="is not external"):
        system.deliver("invoices", {"n": 1})


@pytest.fixture(params=["embedded", *versions.chosen()])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    """Make a system on either broker, where nothing is declared yet."""
    values = {"url": f"sqlite:///{tmp_path}/broker.db"}
    if request.param != "embedded":
        node = request.getfixturevalue("rabbitmq_nodes")(request.param)
        values = {"url": node.url, "management": f'management = "{node.management_url}"'}
    text = TOPOLOGY.replace('"shop"', f'"shop-{uuid.uuid4().hex[:8]}"')
    made = System(load(tmp_path, text, **values), store=NoStore())
    with foreign(made) as channel:
        channel.exchange_delete("erp.events")
        channel.queue_delete("erp.orders")
        channel.queue_delete("erp.paid")
    return made


@contextmanager
def foreign(system: System) -> Iterator[Any]:
    """Yield a channel of a program that does not know feedbus."""
    with broker.connect(system.topology) as connection:
        yield connection.default_channel


def declare(system: System, kind: str = "topic") -> None:
    """Declare the objects of another system, with its own arguments."""
    with foreign(system) as channel:
        exchange = Exchange("erp.events", kind, channel=channel)
        exchange.declare()
        arguments = {"x-max-length": 50}
        Queue("erp.orders", channel=channel, queue_arguments=arguments).declare()
        Queue("erp.paid", exchange, "invoice.paid", channel=channel).declare()


def publish(system: System, number: int) -> None:
    """Publish to the other system's queue as its own programs do."""
    with foreign(system) as channel:
        body = json.dumps({"n": number}).encode()
        message = channel.prepare_message(body, content_type="application/json")
        publish_confirmed(channel, message, "", "erp.orders")


def external_things(system: System) -> list[Any]:
    """Return all objects of the other system on the broker, without bindings of feedbus."""
    seen = select_broker(system.topology).survey(("erp.",))
    return [
        [each for each in seen.exchanges if each.name.startswith("erp.")],
        [replace(each, unacknowledged=0) for each in seen.queues if each.name.startswith("erp.")],
        [each for each in seen.bindings if each.destination.startswith("erp.")],
    ]


def carry_out(topology: Topology) -> list[str]:
    """Apply a topology, and return the changes by kind and name."""
    with exclusive(topology):
        plan = make_plan(topology, None, predict=False)
        apply(topology, plan, None, wait=True, report=str, progress=float)
    return [f"{change.action} {change.kind} {change.name}" for change in plan.changes]


def test_what_is_missing_is_named_and_nothing_is_declared(system):
    for attempt in (carry_out, topology_setup.set_up):
        with pytest.raises(UsageError) as caught:
            attempt(system.topology)
        said = str(caught.value)
        assert "[exchanges.legacy]: the broker has no exchange 'erp.events'" in said
        assert "[queues.legacy_orders]: the broker has no queue 'erp.orders'" in said
        assert "start that system" in said
    seen = inventory.read_inventory(system.topology)
    assert not seen.queues
    assert not seen.exchanges


def test_an_external_exchange_of_another_type_is_named(system):
    declare(system, "direct")
    with pytest.raises(UsageError, match="of type direct on the broker, not topic"):
        make_plan(system.topology, None, predict=False)


def test_external_things_are_used_and_stay_as_another_system_declared_them(system):
    declare(system)
    before = external_things(system)
    carry_out(system.topology)
    publish(system, 1)
    publish(system, -2)

    def take(message: dict[str, Any], bus: Any) -> None:
        system.seen.append(message["n"])
        if message["n"] < 0:
            msg = "negative"
            raise Reject(msg)
        bus.publish("legacy", {"n": 7}, key="invoice.paid")

    system.run(take, "legacy_orders")
    system.run(system.note, "invoices")
    assert system.seen == [1, -2, 7]
    with foreign(system) as channel:
        paid = channel.basic_get("erp.paid", no_ack=True)
    assert (json.loads(paid.body), paid.content_type) == ({"n": 7}, "application/json")
    (letter,) = system.dead("legacy_orders")
    with Requeue(system.topology, system.topology.queues["legacy_orders"]) as requeue:
        requeue.send(letter)
    assert system.ready() == {"invoices": 0, "legacy_orders": 1}
    system.run(system.note, "legacy_orders")
    assert system.seen == [1, -2, 7, -2]

    topology = system.topology
    narrowed = replace(topology.queues["invoices"], routing_keys=("invoice.paid",))
    changed = replace(topology, queues={**topology.queues, "invoices": narrowed})
    name = f"{topology.name}.invoices"
    assert carry_out(changed) == [f"create binding {name}", f"delete binding {name}"]
    system.purge_dead("legacy_orders")
    own = TopologyExchange("own", "topic")
    without = replace(
        changed, exchanges={"own": own}, queues={"invoices": replace(narrowed, exchange="own")}
    )
    assert not [change for change in carry_out(without) if "erp." in change]
    assert external_things(system) == before


def test_a_consumer_holds_while_its_external_queue_is_missing_and_goes_on_when_it_is_there(system):
    declare(system)
    topology_setup.set_up(system.topology)
    with foreign(system) as channel:
        channel.queue_delete("erp.orders")
    held: list[str] = []

    def on_hold(reason: str) -> None:
        if reason and not held:
            declare(system)
            publish(system, 5)
        held.append(reason)

    limits = {"idle_seconds": 60.0, "max_messages": 1}
    system.run(system.note, "legacy_orders", on_hold=on_hold, **limits)
    assert "the broker has no queue 'erp.orders', which is external" in held[0]
    assert system.seen == [5]


def test_a_consumer_says_that_another_program_consumes_its_external_queue_exclusively(system):
    declare(system)
    topology_setup.set_up(system.topology)
    held: list[str] = []
    with foreign(system) as channel:
        channel.basic_consume(
            "erp.orders", no_ack=True, callback=print, consumer_tag="erp", exclusive=True
        )

        def on_hold(reason: str) -> None:
            if reason and not held:
                channel.basic_cancel("erp")
                publish(system, 6)
            held.append(reason)

        system.run(system.note, "legacy_orders", on_hold=on_hold)
    assert "another program consumes the external queue 'erp.orders' exclusively" in held[0]
    assert system.seen == [6]


def test_a_consumer_shares_an_external_queue_with_programs_that_share_it(system):
    declare(system)
    topology_setup.set_up(system.topology)
    with foreign(system) as channel:
        channel.basic_qos(0, 1, False)
        channel.basic_consume("erp.orders", no_ack=False, callback=print, consumer_tag="erp")
        for number in range(5):
            publish(system, number)
        system.run(system.note, "legacy_orders")
    assert 4 <= len(system.seen) <= 5
