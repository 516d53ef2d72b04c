"""Every way in which a queue may be read to its end, and that each part of that is needed."""

from __future__ import annotations

import pytest

from tests.chaos.deletion import FENCE, Deletion, Reader, World, explore

BOTH_READ = (Reader(subscribed=True), Reader(subscribed=True))
STARTS = {
    "a message is on its way": World((1,), flying=(2,), switch=(FENCE,), elections=1, deaths=1),
    "a foreign fence": World((FENCE, 1), flying=(2,), switch=(3, FENCE), elections=1, deaths=1),
    "a switch that is done again": World(
        (1,), flying=(4,), switch=(2, FENCE, 3, FENCE), elections=1, deaths=1
    ),
    "two readers": World((1, 2), flying=(3,), switch=(FENCE,), readers=BOTH_READ, deaths=2),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_queue_that_is_deleted_was_empty_and_every_message_handled(start: World) -> None:
    worlds, fault = explore(start, Deletion())
    assert fault == ""
    assert worlds > 1_000


@pytest.mark.parametrize(
    ("missing", "start", "reported"),
    [
        ("probes", "a message is on its way", "is lost"),
        ("second probe", "a message is on its way", "it came after the deletion"),
        ("pause", "a message is on its way", "it came after the deletion"),
        ("fence kept", "a message is on its way", "stuck"),
        ("state", "a foreign fence", "it was appended after the deletion"),
        ("state", "a switch that is done again", "it was appended after the deletion"),
        ("alone", "two readers", "stuck"),  # each gets the probe of the other
    ],
)
def test_a_deletion_that_lacks_one_of_its_parts_is_found_out(
    missing: str, start: str, reported: str
) -> None:
    assert reported in explore(STARTS[start], Deletion(frozenset({missing})))[1]
