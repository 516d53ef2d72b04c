"""What the tools for users' tests show of records that wait for others."""

from __future__ import annotations

from feedbus import Retry, handler
from feedbus.testing import TestSystem
from tests.handlers_to_run import Numbered, topology_of


@handler(Numbered)
def fail_once(record: dict[str, int]) -> None:
    """Ask for a retry of record 1."""
    if record["n"] == 1:
        raise Retry


def test_a_record_that_waits_for_an_earlier_one_is_published_only_once() -> None:
    topology = topology_of("tests.test_testing_order:fail_once", order_by=True)
    with TestSystem(topology) as system:
        for number in (1, 2):
            system.publish("work", {"n": number})
        system.run()
        assert [each.payload for each in system.published()] == [{"n": 1}, {"n": 2}]
        assert [each.payload["n"] for each in system.handled("work")] == [1, 1, 2]
