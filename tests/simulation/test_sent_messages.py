"""The check that the broker has accepted what feedbus takes for sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from feedbus.broker.publisher import Publisher
from feedbus.broker.refused_messages import Refusal
from feedbus.bus.sender import Sender
from feedbus.wire import Outgoing
from tests.simulation.ignored_warnings import OF_KILLED_PROCESSES
from tests.simulation.replacing import replaced
from tests.simulation.runs import simulate
from tests.simulation.scenario import Scenario
from tests.simulation.scheduler import Scheduler

MOST = 40
TAKEN_FOR_SENT = "feedbus takes it for sent"

pytestmark = OF_KILLED_PROCESSES


def test_a_message_that_is_not_published_and_not_refused_is_a_fault():
    publish = Publisher._publish

    def publish_others(self: Publisher, messages: Sequence[Outgoing]) -> list[Refusal]:
        return publish(self, messages[1:] or messages)

    with replaced(Publisher, "_publish", publish_others):
        assert any(TAKEN_FOR_SENT in each for each in simulate(1).faults)


def test_a_returned_pack_whose_records_are_not_sent_is_a_fault():
    def send_nothing(*_: Any) -> list[Refusal]:
        return []

    scenarios = ((seed, Scenario.of(Scheduler(seed))) for seed in range(1, MOST))
    seeds = [seed for seed, one in scenarios if len(one.shards) > 1 and one.pack]
    with replaced(Sender, "_send_unpacked", send_nothing):
        assert any(TAKEN_FOR_SENT in each for seed in seeds for each in simulate(seed).faults)
