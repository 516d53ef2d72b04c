"""Every way in which a switch of rings may go, and that each part of the protocol is needed."""

from __future__ import annotations

import os

import pytest

from tests.chaos.protocol import Protocol, begin, explore

SENDS = [
    ("PPP",),  # one send that begins before and ends after a switch
    ("P", "P", "P"),
    ("p", "P", "p"),  # one record is plain, another packed, each confirmed before the next
    ("PP", "p"),
    ("P", "PP"),  # the second send uses the state that the publisher reads after the first
    ("ppp",),  # a foreign publisher, which does not wait
]


LONG = os.environ.get("FEEDBUS_LONG_MODELS") == "1"  # as `make model` sets it
CASES = [(sends, 1, 1) for sends in SENDS]
CASES += [(sends, 2, 0) for sends in (SENDS if LONG else SENDS[-1:])]


@pytest.mark.parametrize(("sends", "switches", "deaths"), CASES)
def test_no_record_is_lost_doubled_or_overtaken_whatever_happens_when(
    sends: tuple[str, ...], switches: int, deaths: int
) -> None:
    worlds, fault = explore(begin(*sends, switches=switches, deaths=deaths), Protocol())
    assert fault == ""
    assert worlds > 1_000


@pytest.mark.parametrize(
    ("missing", "sends", "switches", "deaths", "reported"),
    [
        ("hold", ("p", "p"), 1, 0, "2 after 0"),
        ("fence", ("P", "p"), 1, 0, "is lost"),
        ("waiting", ("P", "P"), 1, 0, "after"),
        ("leaving first", ("p", "p"), 1, 0, "goes to two rings"),
        ("appending first", ("p", "p"), 1, 0, "is lost"),
        *([("ending", ("p", "p"), 2, 1, "after")] if LONG else []),
        ("turns", ("PP",), 2, 0, "after"),
        ("connected packs", ("P", "PP"), 1, 0, "3 after 1"),
    ],
)
def test_a_protocol_that_lacks_one_of_its_parts_is_found_out(
    missing: str, sends: tuple[str, ...], switches: int, deaths: int, reported: str
) -> None:
    start = begin(*sends, switches=switches, deaths=deaths)
    assert explore(start, Protocol())[1] == ""
    assert reported in explore(start, Protocol(frozenset({missing})))[1]


def test_a_fence_that_is_settled_before_its_queue_is_deleted_dies_with_its_consumer() -> None:
    start = begin("P", switches=1, deaths=1)
    stuck = explore(start, Protocol(frozenset({"fence kept"})))[1]
    assert "passing: (0,)" in stuck


def test_packs_and_plain_messages_of_one_key_in_one_send_would_overtake_each_other() -> None:
    reported = explore(begin("Pp", switches=1, deaths=0), Protocol())[1]
    assert reported == "2 after 0"
