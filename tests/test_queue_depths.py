"""Answers of the broker that are remembered for some seconds."""

from __future__ import annotations

import math

import pytest

from feedbus.errors import Outage
from feedbus.operations.queue_depths import Remembered


def test_an_answer_is_asked_for_once_while_it_is_fresh() -> None:
    asked: list[int] = []
    remembered = Remembered(lambda: asked.append(1) or len(asked), math.inf)
    assert [remembered.read() for _ in range(3)] == [1, 1, 1]


def test_an_old_answer_is_asked_for_again() -> None:
    asked: list[int] = []
    remembered = Remembered(lambda: asked.append(1) or len(asked), -1.0)
    assert [remembered.read() for _ in range(3)] == [1, 2, 3]


def test_an_error_is_not_remembered() -> None:
    answers = [Outage("away"), 7]

    def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Outage):
            raise answer
        return answer

    remembered = Remembered(ask, math.inf)
    with pytest.raises(Outage, match="away"):
        remembered.read()
    assert remembered.read() == 7
