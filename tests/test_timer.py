"""The digits of a delay: their sum is the delay, and they need few queues."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis.strategies import integers

from feedbus.broker.timer import (
    LONGEST_MILLISECONDS,
    LONGEST_QUEUE_MILLISECONDS,
    digits_of,
    queue_milliseconds,
)
from feedbus.errors import LONGEST_WAIT_SECONDS
from feedbus.wire.constants import TIMER_POSITIONS


def waited(digits: list[int]) -> int:
    return sum(queue_milliseconds(place, digit) for place, digit in enumerate(digits) if digit)


@given(integers(1, LONGEST_MILLISECONDS))
@example(LONGEST_MILLISECONDS)
@example(LONGEST_WAIT_SECONDS * 1000)
@example(LONGEST_QUEUE_MILLISECONDS)
@example(LONGEST_QUEUE_MILLISECONDS + 1)
def test_a_message_waits_as_long_as_it_should_and_at_most_255_milliseconds_longer(
    milliseconds: int,
) -> None:
    digits = digits_of(milliseconds)
    assert milliseconds <= waited(digits) <= milliseconds + 255
    assert len(digits) <= len(TIMER_POSITIONS)
    assert digits[-1]


@given(integers(1, 4_095))
def test_a_wait_below_four_seconds_is_exact(milliseconds: int) -> None:
    assert waited(digits_of(milliseconds)) == milliseconds


@given(integers(4_096, LONGEST_MILLISECONDS))
def test_a_wait_is_at_most_four_thousandths_longer(milliseconds: int) -> None:
    assert waited(digits_of(milliseconds)) <= milliseconds * 1.004


def test_every_queue_waits_no_longer_than_a_broker_allows() -> None:
    assert queue_milliseconds(7, 15) <= LONGEST_QUEUE_MILLISECONDS
    assert LONGEST_WAIT_SECONDS * 1000 <= LONGEST_MILLISECONDS
