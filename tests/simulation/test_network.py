"""The simulated network: late, lost and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from amqp import Message
from amqp.exceptions import RecoverableConnectionError

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.dispatch.wake_up_socket import Waker
from feedbus.transports import memory
from feedbus.wire import Outgoing
from tests.simulation.broker import SimulatedBroker
from tests.simulation.channel import LATE_ACKNOWLEDGEMENTS
from tests.simulation.ignored_warnings import OF_KILLED_PROCESSES
from tests.simulation.network import Network
from tests.simulation.scenario import BROKER, Scenario, topology_of
from tests.simulation.scheduler import SECONDS, Scheduler

CONFIRM_SECONDS = 10.0
MOST_POLLS = 10_000  # of a publisher, where one without pauses has 50,000

pytestmark = OF_KILLED_PROCESSES


def test_a_connection_is_cut_between_messages_that_are_sent_together():
    assert {count_before_a_cut(seed) for seed in range(20)} == {0, 1, 2, 3}


def count_before_a_cut(seed: int) -> int:
    """Return how many of four messages arrive before the cut."""
    scheduler = Scheduler(seed)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    simulated = SimulatedBroker(BROKER, Network(scheduler), None)
    messages = [
        Outgoing("", "q", b"1", "text/plain", str(number), content_encoding=None, stamp=None)
        for number in range(4)
    ]
    failures: list[Exception] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            raw.channel().queue_declare("q")
            raw.sending.is_cut = True
            try:
                publish_all(raw, messages)
            except RecoverableConnectionError as error:
                failures.append(error)

    memory.create(simulated)
    try:
        process = scheduler.start("publisher", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
        ((_, _, ready, _, _),) = simulated.survey().queues
    finally:
        memory.remove(BROKER)
    assert len(failures) == 1
    return int(ready)


def test_answers_of_a_full_queue_that_a_cut_loses_are_noted():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    network = Network(scheduler)

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            full = {"x-max-length": 1, "x-overflow": "reject-publish"}
            channel = raw.channel()
            channel.queue_declare("q", arguments=full)
            channel.confirm_select()
            for _ in range(3):
                channel.basic_publish(Message(b"1"), "", "q")
            raw.cut_after_next = True
            with pytest.raises(RecoverableConnectionError):
                channel.flush()

    memory.create(SimulatedBroker(BROKER, network, None))
    try:
        process = scheduler.start("publisher", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    (answers,) = network.divided_sendings
    assert [each.is_accepted for each in answers] == [None, None, None]


def test_the_deliveries_of_a_slow_queue_stay_on_their_way_and_those_of_another_arrive():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    network = Network(scheduler)
    arrived: dict[str, float] = {}

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            channel = raw.channel()
            for queue in ("slow", "other"):
                channel.queue_declare(queue)
                channel.basic_publish(Message("1"), routing_key=queue)
                channel.basic_consume(
                    queue,
                    no_ack=True,
                    callback=lambda _, name=queue: arrived.setdefault(name, scheduler.now),
                )
            network.slow_queues["slow"] = 10 * SECONDS
            while len(arrived) < 2:
                raw.drain_events(timeout=60)

    memory.create(SimulatedBroker(BROKER, network, None))
    try:
        process = scheduler.start("consumer", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert arrived["other"] < 10 * SECONDS <= arrived["slow"] < 11 * SECONDS


def test_a_publisher_whose_connection_is_woken_waits_for_its_confirm_without_polling():
    class SlowNetwork(Network):
        def confirm_seconds(self) -> float:
            return CONFIRM_SECONDS

    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    waker = Waker()
    waker.wake()
    message = Outgoing("", "q", b"1", "text/plain", "", content_encoding=None, stamp=None)
    refusals: list[object] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            raw.channel().queue_declare("q")
            raw.wake_on(waker.fileno())
            refusals.append(publish_all(raw, [message]))

    memory.create(SimulatedBroker(BROKER, SlowNetwork(scheduler), None))
    try:
        process = scheduler.start("publisher", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=100_000)
    finally:
        memory.remove(BROKER)
        waker.close()
    assert refusals == [[]]
    assert scheduler.steps < MOST_POLLS


@pytest.mark.parametrize("seed", range(4))  # it arrives before the wait, or in it
def test_a_refused_acknowledgement_ends_the_wait_of_its_connection(seed: int):
    class LateAcknowledgements(Network):
        def chance(self, share: float) -> bool:
            return share == LATE_ACKNOWLEDGEMENTS

    scheduler = Scheduler(seed)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    ended: list[Exception] = []

    def run() -> None:
        with broker.connect(topology) as connection:
            raw: Any = connection.connection
            channel = raw.channel()
            channel.queue_declare("q")
            channel.basic_consume("q", callback=lambda _: None)
            channel.basic_ack(1)
            try:
                raw.drain_events(timeout=60)
            except RecoverableConnectionError as error:
                ended.append(error)

    memory.create(SimulatedBroker(BROKER, LateAcknowledgements(scheduler), None))
    try:
        process = scheduler.start("consumer", run)
        scheduler.run(lambda: process.dead, most_seconds=60, most_steps=1_000)
    finally:
        memory.remove(BROKER)
    assert len(ended) == 1


def test_a_killed_process_loses_the_connections_of_its_threads():
    scheduler = Scheduler(1)
    topology = topology_of(Scenario.of(scheduler), 1, Path("/nowhere"))
    simulated = SimulatedBroker(BROKER, Network(scheduler), None)
    taken: list[Any] = []

    def take() -> None:
        with broker.connect(topology) as connection:
            channel = connection.connection.channel()
            channel.queue_declare("q")
            channel.basic_publish(Message("1"), routing_key="q")
            taken.append(channel.basic_get("q"))
            simulated.clock.sleep(60)

    memory.create(simulated)
    try:
        threads = simulated.clock.threads
        process = scheduler.start("consumer", lambda: threads.start("thread", take).join())
        scheduler.run(lambda: bool(taken), most_seconds=60, most_steps=1_000)
        assert taken
        scheduler.kill(process)
        assert [(ready, unacked) for _, _, ready, unacked, _ in simulated.survey().queues] == [
            (1, 0)
        ]
    finally:
        memory.remove(BROKER)
