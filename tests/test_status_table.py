"""The lines of `feedbus status` for people."""

from __future__ import annotations

from typing import Any

import click
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


def test_colours_do_not_appear_as_text_in_the_table_of_hosts() -> None:
    hosts = [
        {"host": host, "this_host": here, "works_on": ["s_0"], "same_file": here}
        for host, here in (("one:/var", True), ("two\x1b[0m:/var", False))
    ]
    lines = [click.unstyle(line) for line in table(state() | {"hosts": hosts}).splitlines()]
    first = lines.index("host                        SHARDS")
    assert lines[first + 1 : first + 4] == [
        "one:/var         this host  1       s_0",
        "two\\x1b[0m:/var             1       s_0",
        "two\\x1b[0m:/var has another topology file than this host; give all hosts the same file",
    ]


@pytest.mark.parametrize(("known", "last"), [(True, "not fired yet"), (False, "unknown")])
def test_the_last_firing_is_unknown_while_the_broker_is_unavailable(known: bool, last: str) -> None:
    schedule = {
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "next": "2026-02-01T02:30:00+01:00",
        "last": None,
        "last_known": known,
    }
    text = click.unstyle(table(state() | {"schedules": {"nightly": schedule}}))
    row = f"nightly   30 2 * * *  Europe/Berlin  {last}  2026-02-01T02:30:00+01:00"
    assert row in text.splitlines()


@pytest.mark.parametrize(
    ("url", "error", "line"),
    [
        ("db:engine", "store postgresql://shop: it is down", "db:engine  postgresql://shop: it is"),
        ("postgresql://shop", "store postgresql://shop: it is down", "postgresql://shop  it is"),
    ],
)
def test_a_store_that_is_down_has_its_name_once(url: str, error: str, line: str) -> None:
    found = state() | {"store": {"url": url, "error": error}}
    assert f"store       {line} down" in table(found).splitlines()


def test_no_state_has_the_name_of_a_column():
    assert COLOURS.keys().isdisjoint(column.lower() for column in COUNTS)
