"""Every way in which retries in order may go, and that each part of the protocol is needed."""

from __future__ import annotations

import pytest

from tests.chaos.waiting import OTHER, Retries, World, explore

CASES = [((1, 0, 0), 2), ((0, 2, 0), 1), ((1, 1, 0), 1), ((1, 0, 0, 1), 1)]


# The first record of either key has failed once before the consumer begins, at one place.
TWO_KEYS = ((1, 1, 1), (1, OTHER, 1))


def start(failures: tuple[int, ...], deaths: int) -> World:
    return World(len(failures), failures, deaths=deaths)


@pytest.mark.parametrize("movable", [True, False])
@pytest.mark.parametrize(("failures", "deaths"), CASES)
def test_each_record_has_its_effect_in_order_whatever_fails_and_dies_when(
    failures, deaths, movable
):
    worlds, fault = explore(start(failures, deaths), Retries(movable=movable))
    assert fault == ""
    assert worlds > 100


@pytest.mark.parametrize(
    ("missing", "failures", "deaths", "reported"),
    [
        ("blocking", (1, 0), 0, "2 after 0"),
        ("publishing first", (1, 0), 1, "1 of 2 had their effect"),
        ("reading first", (1, 0), 1, "2 after 0"),
        ("keeping places", (2, 0), 0, "2 after 0"),
        ("moving", (1,), 0, "gone"),
        ("places", (2, 0), 1, "wait"),
        ("receiving at the fence", (2, 0), 0, "left: ((0,)"),
        ("emptying from the end", (1, 0), 1, "2 after 0"),
    ],
)
def test_a_protocol_that_lacks_one_of_its_parts_is_found_out(missing, failures, deaths, reported):
    begin = start(failures, deaths)
    assert explore(begin, Retries())[1] == ""
    assert reported in explore(begin, Retries(frozenset({missing})))[1]


def test_a_queue_whose_waiting_records_cannot_move_ends_only_if_they_run_at_its_fence():
    begin = start((1, 0), 0)
    assert explore(begin, Retries(movable=False))[1] == ""
    lacking = Retries(frozenset({"running at the fence"}), movable=False)
    assert "left: ((0,)" in explore(begin, lacking)[1]


@pytest.mark.parametrize(("again", "other"), [(1, 0), (0, 1), (1, 1)])
def test_two_records_with_one_place_are_not_taken_for_each_other(again, other):
    begin = World(1, (again, 0), waiting=(TWO_KEYS, ()), other=other)
    assert explore(begin, Retries())[1] == ""
    lacking = Retries(frozenset({"distinguishing queues"}))
    assert explore(begin, lacking)[1]
