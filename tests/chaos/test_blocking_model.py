"""Dead letters that block their keys: every way in which their messages can be late."""

from __future__ import annotations

import pytest

from tests.chaos.blocking import OWN, RECORD, RELEASE, REQUEUED, Blocking, World, explore

NO_LIMIT = 9


def start(rejections: int, deaths: int = 1) -> World:
    return World((1, 2), rejections, deaths)


@pytest.mark.parametrize("by_exchange", [False, True])
@pytest.mark.parametrize("rejections", [0, 1, 2, 3])
def test_no_key_stays_blocked_whenever_a_consumer_dies_and_an_operator_acts(
    rejections, by_exchange
):
    worlds, fault = explore(start(rejections), Blocking(by_exchange=by_exchange))
    assert fault == ""
    assert worlds > 20


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("rejections", [1, 2])
def test_a_consumer_that_holds_gets_its_dead_letters_back(rejections, limit):
    assert explore(start(rejections), Blocking(limit=limit))[1] == ""


@pytest.mark.parametrize(
    ("missing", "rejections", "by_exchange", "limit"),
    [
        (OWN, 1, True, NO_LIMIT),
        (RECORD, 2, True, NO_LIMIT),
        (REQUEUED, 2, False, NO_LIMIT),
        (RELEASE, 1, False, 1),
    ],
)
def test_a_late_message_blocks_the_key_if_one_kind_of_repetition_is_not_noted(
    missing, rejections, by_exchange, limit
):
    protocol = {"by_exchange": by_exchange, "limit": limit}
    assert explore(start(rejections), Blocking(**protocol))[1] == ""
    lacking = Blocking(frozenset({f"noting {missing}"}), **protocol)
    assert "wait: (('block', 1, 1),)" in explore(start(rejections), lacking)[1]


def test_a_message_that_arrives_after_the_end_of_a_second_consumer_blocks_its_key():
    assert "wait: (('block', 1, 1),)" in explore(start(1, deaths=2), Blocking())[1]
