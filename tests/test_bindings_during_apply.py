"""During `feedbus apply`, no queue that stays misses a copy that another queue gets."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.clock import VirtualClock
from feedbus.generations import topology_setup
from feedbus.topic_patterns import topic_matches, words_of
from feedbus.topology import Exchange, Queue, Topology
from feedbus.transports import memory
from feedbus.transports.sqlite.declaring_channel import DeclaringChannel
from feedbus.urls import BrokerUrl
from tests.applying import Killed, carry_out, nothing_to_do
from tests.small_topologies import queue
from tests.systems import publish_confirmed

STEPS = (
    *("exchange_declare", "exchange_delete", "exchange_bind", "exchange_unbind"),
    *("queue_declare", "queue_delete", "queue_bind", "queue_unbind"),
)
KEYS = ("a", "b")
BINDING_KEYS = {"direct": KEYS, "topic": (*KEYS, "#"), "fanout": ("",)}
FANOUT, TOPIC = Exchange("one", "fanout"), Exchange("one", "topic")


def exchanges(*types: str) -> dict[str, Exchange]:
    return {name: Exchange(name, kind) for name, kind in zip(("one", "two"), types, strict=True)}


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    types = st.sampled_from(sorted(BINDING_KEYS))
    declared = exchanges(draw(types), draw(types))
    queues = []
    for name in draw(st.sets(st.sampled_from("pqrs"), min_size=2)):
        exchange = draw(st.sampled_from(sorted(declared)))
        keys = st.sets(st.sampled_from(BINDING_KEYS[declared[exchange].type]), min_size=1)
        length = draw(st.sampled_from([None, None, 1000]))
        bound = {"exchange": exchange, "routing_keys": tuple(sorted(draw(keys)))}
        queues.append(queue(name, **bound, max_length=length))
    return topology(declared, *queues)


def topology(declared: Mapping[str, Exchange], *queues: Queue) -> Topology:
    return Topology(
        name="p",
        path=Path("topology.toml"),
        broker_url=BrokerUrl.in_memory("bindings"),
        exchanges=declared,
        queues={each.name: each for each in queues},
    )


def gets(topology: Topology, queue: str, exchange: str, key: str) -> bool:
    """Whether a queue gets the messages of an exchange with a routing key."""
    declared = topology.queues.get(queue)
    if declared is None or declared.exchange != exchange:
        return False
    kind = topology.exchanges[exchange].type
    if kind == "topic":
        return any(topic_matches(words_of(each), words_of(key)) for each in declared.routing_keys)
    return kind == "fanout" or key in declared.routing_keys


@dataclass(slots=True)
class Publishing:
    """Publishes a message to each exchange with each key after each step.

    Attributes:
        topology: the exchanges.
        killed_at: the number of the step at which the process ends; 0 for none.
        sent: the exchange and the key of each message, by its number.
        steps: the number of steps.

    """

    topology: Topology
    killed_at: int = 0
    sent: dict[int, tuple[str, str]] = field(default_factory=dict)
    steps: int = 0
    _publishes: bool = False

    def publish(self) -> None:
        """Publish the messages of a step."""
        names = Names(self.topology)
        with broker.connect(self.topology) as connection:
            for exchange, key in itertools.product(self.topology.exchanges, KEYS):
                number = len(self.sent)
                self.sent[number] = (exchange, key)
                channel = connection.channel()
                message = channel.prepare_message(
                    b"%d" % number, properties={"delivery_mode": 2, "message_id": f"m{number}"}
                )
                with suppress(*broker.connection_errors(connection), *connection.channel_errors):
                    publish_confirmed(channel, message, names.exchange(exchange), key)
                    channel.close()

    def follow(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return a step after which messages are published."""

        def followed(*arguments: Any, **options: Any) -> Any:
            result = step(*arguments, **options)
            if not self._publishes:
                self._publishes = True
                self.publish()
                self._publishes = False
                self.steps += 1
                if self.steps == self.killed_at:
                    raise Killed
            return result

        return followed

    @contextmanager
    def after_each_step(self) -> Iterator[None]:
        """Publish after each change of the broker in the `with` block."""
        with pytest.MonkeyPatch.context() as patch:
            for step in STEPS:
                patch.setattr(DeclaringChannel, step, self.follow(getattr(DeclaringChannel, step)))
            yield


def numbers_in(topology: Topology) -> dict[str, Counter[int]]:
    """Return the numbers of the messages that each queue of a topology has."""
    names, found = Names(topology), defaultdict[str, Counter[int]](Counter)
    with broker.connect(topology) as connection:
        for name, name_of in itertools.product(topology.queues, (names.queue, names.before)):
            stored = name_of(topology.consumer(name))
            if not broker.queue_exists(connection, stored):
                continue
            channel = connection.channel()
            while (message := channel.basic_get(stored, no_ack=True)) is not None:
                if str(message.properties.get("message_id", "")).startswith("m"):
                    found[name].update([int(message.body)])
    return found


def check(before: Topology, after: Topology, killed_at: int = 0) -> Publishing:
    """Apply a topology, and check the copies of each message that is published meanwhile."""
    memory.create(memory.MemoryBroker("bindings", clock=VirtualClock(seed=1)))
    with tempfile.TemporaryDirectory() as folder:
        before, after = (replace(each, var=Path(folder) / "var") for each in (before, after))
        try:
            topology_setup.set_up(before)
            publishing = Publishing(after, killed_at)
            with publishing.after_each_step():
                with suppress(Killed):
                    carry_out(after)
                if publishing.killed_at:
                    publishing.killed_at = 0
                    carry_out(after, *(before.queues.keys() - after.queues.keys()))
                    assert nothing_to_do(after)
            found = numbers_in(after)
        finally:
            memory.remove("bindings")
    for number, (exchange, key) in publishing.sent.items():
        staying = {
            name
            for name in after.queues
            if gets(before, name, exchange, key) and gets(after, name, exchange, key)
        }
        copies = {name for name in staying if found[name][number]}
        assert copies in (set(), staying), (number, exchange, key, copies, staying)
        if before.exchanges[exchange].type == after.exchanges[exchange].type:
            assert copies == staying
        assert all(found[name][number] <= 1 for name in staying)
    return publishing


@settings(max_examples=60, deadline=None)
@given(topologies(), topologies())
def test_a_queue_that_stays_gets_each_message_that_another_such_queue_gets(
    before: Topology, after: Topology
) -> None:
    check(before, after)


@settings(max_examples=60, deadline=None)
@given(topologies(), topologies(), st.integers(1, 150))
def test_a_queue_that_stays_gets_each_message_although_an_apply_is_killed(
    before: Topology, after: Topology, killed_at: int
) -> None:
    check(before, after, killed_at)


def test_the_queues_of_an_exchange_of_another_type_get_messages_while_one_is_replaced() -> None:
    before, after = (
        topology(
            exchanges(kind, "direct"),
            queue("p", exchange="one", routing_keys=(key,), max_length=length),
            queue("q", exchange="one", routing_keys=(key,)),
        )
        for kind, key, length in (("fanout", "", 1000), ("topic", "#", 500))
    )
    check(before, after)
