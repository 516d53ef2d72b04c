"""Single records that have arrived together: handled one by one, settled together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from feedbus.bus import Bus
from feedbus.bus.sender import Sender
from feedbus.errors import BrokerOutage, Outage, Reject
from feedbus.runner import CrashGuard, group
from feedbus.runner.queue_reader import QueueReader
from feedbus.store.peewee import close_bound
from tests.ordered_queues import DELAYS
from tests.small_topologies import queue
from tests.systems import System


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., System]]:
    """Make systems without a store, whose groups are complete only when nothing more waits."""
    monkeypatch.setattr(group, "GROUP_SECONDS", math.inf)
    yield partial(System.at, tmp_path, stored=False)
    close_bound()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the tags of acknowledgements."""
    tags: list[int] = []
    settle = QueueReader.settle_up_to

    def note(reading: QueueReader, tag: int) -> None:
        tags.append(tag)
        settle(reading, tag)

    monkeypatch.setattr(QueueReader, "settle_up_to", note)
    return tags


class Unforeseen(KeyboardInterrupt):
    """An exception that ends a process; any other exception is a failure of the message."""


def test_what_has_arrived_is_handled_in_order_and_acknowledged_by_half_the_prefetch(
    make: Callable[..., System], settled: list[int]
) -> None:
    system = make(queue(prefetch=20))
    system.publish(range(20))
    system.run(system.note)
    assert system.seen == list(range(20))
    assert settled == [10, 20]


@pytest.mark.parametrize("options", [{"prefetch": 1}, {"stream": True}, {"once": True}])
def test_each_message_is_acknowledged_alone_where_groups_are_not_wanted(
    make: Callable[..., System], settled: list[int], options: dict[str, Any]
) -> None:
    system = make(queue(**options))
    system.publish(range(4))
    system.run(system.note)
    assert settled == [1, 2, 3, 4]


def test_messages_of_a_handler_that_takes_long_are_acknowledged_one_by_one(
    make: Callable[..., System], settled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "GROUP_SECONDS", 0.0)
    system = make(queue(prefetch=20))
    system.publish(range(3))
    system.run(system.note)
    assert settled == [1, 2, 3]


def test_only_the_message_that_ends_the_process_is_counted(make: Callable[..., System]) -> None:
    system = make(queue(prefetch=20))
    begun: list[int] = []

    def end(message: dict[str, Any], _bus: Bus) -> None:
        begun.append(message["n"])
        if message["n"] == 2:
            raise Unforeseen

    system.publish(range(5))
    for _ in range(5):
        with pytest.raises(Unforeseen):
            system.run(end)
    system.run(end)
    (letter,) = system.dead()
    assert json.loads(letter.body) == {"n": 2}
    assert "ended 5 times" in letter.reason
    # In the first run in a group; from then on 2 alone, after the earlier messages were settled.
    assert begun == [0, 1, 2, 0, 1, 2, 2, 2, 2, 3, 4]


def test_a_crash_while_a_group_is_finished_is_counted_against_none_of_it(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(prefetch=20), queue("next", exchange="other", routing_keys=("n",)))

    def crash(*_: Any) -> None:
        raise Unforeseen

    def send_on(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        bus.publish("other", message, "n")

    system.publish(range(3))
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "send", crash)
        with pytest.raises(Unforeseen):
            system.run(send_on)
    with CrashGuard(system.topology.var / "run" / "work.handler") as crash_guard:
        deaths = dict(crash_guard._crashes)
    system.run(send_on)
    assert [count for count, _ in deaths.values()] == [0, 0, 0]
    assert system.seen == [0, 1, 2, 0, 1, 2]
    assert (system.ready()["next"], system.dead()) == (3, [])


def test_an_outage_in_a_handler_repeats_nothing_that_was_handled_before_it(
    make: Callable[..., System],
) -> None:
    system = make(queue(prefetch=20), queue("next", exchange="other", routing_keys=("n",)))

    def need_something(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        if system.seen == [0, 1, 2]:
            msg = "the printer is unavailable"
            raise Outage(msg)
        bus.publish("other", message, "n")

    system.publish(range(5))
    system.run(need_something)
    assert system.seen == [0, 1, 2, 2, 3, 4]
    assert (system.ready(), system.dead()) == ({"work": 0, "next": 5}, [])


def test_an_outage_of_the_broker_while_a_group_is_finished_calls_no_handler_again(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make(queue(prefetch=20), queue("next", exchange="other", routing_keys=("n",)))
    send, outages = Sender.send, [True, True]

    def away(sender: Sender, messages: Any) -> Any:
        if outages:
            outages.pop()
            msg = "broker: away"
            raise BrokerOutage(msg)
        return send(sender, messages)

    def send_on(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        if message["n"] == 1:
            msg = "nobody wants 1"
            raise Reject(msg)
        bus.publish("other", message, "n")

    system.publish(range(4))
    with monkeypatch.context() as patched:
        patched.setattr(Sender, "send", away)
        system.run(send_on, idle_seconds=1.0)
    assert outages == []
    assert system.seen == [0, 1, 2, 3]
    assert (system.ready(), len(system.dead())) == ({"work": 0, "next": 3}, 1)


def test_a_record_whose_message_nobody_receives_fails_alone(make: Callable[..., System]) -> None:
    system = make(queue(prefetch=20), queue("next", exchange="other", routing_keys=("n",)))

    def send_on(message: dict[str, Any], bus: Bus) -> None:
        bus.publish("other", message, "nowhere" if message["n"] == 1 else "n")

    system.publish(range(4))
    system.run(send_on, idle_seconds=1.0)
    (letter,) = system.dead()
    assert json.loads(letter.body) == {"n": 1}
    assert "for the routing key 'nowhere'" in letter.reason
    assert system.ready() == {"work": 0, "next": 3}


def test_what_has_not_begun_when_a_signal_comes_is_not_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue(prefetch=20))

    with system._runner(lambda each, _: stop(each), "work", False, None, {}) as runner:

        def stop(message: dict[str, Any]) -> None:
            system.note(message)
            if message["n"] == 2:
                runner.stop()

        system.publish(range(5))
        assert runner.run() == "stopped by a signal"
    assert (system.seen, system.ready()) == ([0, 1, 2], {"work": 2})


def test_a_group_that_has_published_much_is_sent_before_the_next_record_is_handled(
    make: Callable[..., System],
) -> None:
    system = make(queue(prefetch=20), queue("next", exchange="other", routing_keys=("n",)))
    ready: list[int] = []

    def send_on(message: dict[str, Any], bus: Bus) -> None:
        ready.append(system.ready()["next"])
        bus.publish_many("other", [({"n": message["n"]}, "n")] * 600)

    system.publish(range(3))
    system.run(send_on)
    assert ready == [0, 0, 1200]
    assert system.ready()["next"] == 1800


@pytest.mark.parametrize("failing", [[], [1], [1, 3]])
def test_a_record_whose_messages_are_refused_is_sent_before_later_records_of_its_key(
    make: Callable[..., System], failing: list[int]
) -> None:
    work = queue(prefetch=20, order_by=True, single_active_consumer=True, retry=DELAYS)
    system = make(work, queue("next", exchange="other", routing_keys=("n",)), pack=2)
    refused = [0]

    def send_on(message: dict[str, Any], bus: Bus) -> None:
        number = message["n"]
        if number in failing:
            failing.remove(number)
            raise ValueError
        key = "lost" if number in refused else "n"
        refused[:] = [each for each in refused if each != number]
        bus.publish_many("other", [(message, key)] * 2)

    system.publish(range(5))
    system.run(send_on)
    system.run(system.note, name="next")
    assert system.seen == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
