"""The checks of waiting_limit: when a consumer holds, and when it continues."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from feedbus.runner.waiting_limit import RetryLimit, SwitchLimit
from feedbus.topology import Consumer
from tests.small_topologies import undeclared


def consumer(limit: int) -> Consumer:
    found = undeclared().consumer("shard_0")
    return replace(found, queue=replace(found.queue, waiting_limit=limit))


@pytest.mark.parametrize(
    ("limit", "counts", "reached"),
    [
        (10, [9, 10, 11], [False, True, True]),
        (10, [10, 9], [True, False]),
        (20, [20, 19, 18, 19], [True, True, False, False]),
        (1, [0, 1, 0], [False, True, False]),
    ],
)
def test_a_limit_stays_reached_until_a_tenth_of_its_records_is_gone(limit, counts, reached):
    checked = RetryLimit(consumer(limit), lambda _: None)
    assert [checked.check(count) for count in counts] == reached


def test_each_change_is_logged_and_reported_once(caplog):
    reasons: list[str] = []
    limit = RetryLimit(consumer(10), reasons.append)
    with caplog.at_level(logging.INFO):
        for count in (10, 12, 11, 3, 2):
            limit.check(count)
    assert reasons[0].startswith("10 records wait for earlier records of their keys")
    assert reasons[1:] == [""]
    assert [text.split()[0] for text in caplog.messages] == [
        "event=waiting_limit",
        "event=waiting_resumed",
    ]


def test_a_consumer_that_reads_its_records_again_holds_no_longer():
    reasons: list[str] = []
    limit = RetryLimit(consumer(1), reasons.append)
    limit.forget()
    assert reasons == []
    limit.check(1)
    limit.forget()
    assert (limit.reached, reasons[-1]) == (False, "")


def test_the_limit_of_a_switch_is_logged_with_what_the_consumer_reads(caplog):
    limit = SwitchLimit(consumer(10))
    with caplog.at_level(logging.INFO):
        limit.check(10)
        limit.check(9)
    reached, over = caplog.messages
    assert "until fewer wait, it reads only its oldest queues" in reached
    assert "shard_0 reads all its queues again: only 9 records wait" in over
