"""The lines of `feedbus status` for people."""

from __future__ import annotations

from typing import Any

import pytest

from feedbus.cli.status_table import COLOURS, COUNTS, table


def state(*, waiting: int = 0, dead_dropped: int = 0, delayed: int = 0) -> dict[str, Any]:
    consumer = {
        "state": "running",
        "processes": [],
        "restarts": 0,
        "waiting": waiting,
        "dead_dropped": dead_dropped,
    }
    reachable = {"url": "sqlite:///broker.db", "error": ""}
    return {
        "consumers": {"mail": consumer},
        "processes": {},
        "schedules": {},
        "supervisor": {"pid": 1, "error": ""},
        "hosts": [],
        "notes": [],
        "broker": reachable | {"delayed": {"waiting": delayed}},
        "store": {"url": "", "error": ""},
        "disk": {"error": ""},
        "operations": {"url": ""},
    }


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"dead_dropped": 1}, "mail: 1 dead letter deleted because of max_age or max_length"),
        ({"dead_dropped": 2}, "mail: 2 dead letters deleted because of max_age or max_length"),
        ({"delayed": 1}, "delayed     1 message waits for the end of the delay"),
        ({"delayed": 2}, "delayed     2 messages wait for the end of the delay"),
    ],
)
def test_a_count_of_one_has_its_noun_and_verb_in_the_singular(counts, line):
    assert line in table(state(**counts)).splitlines()


def test_no_state_has_the_name_of_a_column():
    assert COLOURS.keys().isdisjoint(column.lower() for column in COUNTS)
