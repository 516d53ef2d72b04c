"""A wrong schedule is reported at its position."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import TopologyError
from feedbus.records.payloads import BODY_LIMIT_BYTES
from tests.topologies import FEED, MARK, START, STOCKTAKING, assert_reported, write

WRONG = {
    'cron     = "30 2 * * *"|cron     = "61 2 * * *"': (
        "cron: expected minute, hour, day of month, month and day of week, such as"
        """ "*/5 * * * *" or "30 2 * * MON-FRI" (a sixth field in front is the second),"""
        " got '61 2 * * *': bad minute"
    ),
    'cron     = "30 2 * * *"|cron     = "@daily"': "got '@daily': wrong number of fields",
    'cron     = "30 2 * * *"|cron     = "0 0 30 2 *"': (
        "got '0 0 30 2 *': no date matches it: day of month 30, month 2"
    ),
    'cron     = "30 2 * * *"|cron     = "0 0 31 FEB,4 *"': "day of month 31, month FEB,4",
    'cron     = "30 2 * * *"|cron     = "0 0 32 2 *"': "got '0 0 32 2 *': bad day-of-month",
    'cron     = "30 2 * * *"|': "cron: expected minute, hour",
    '"Europe/Berlin"|"Europe/Berlim"': "did you mean 'Europe/Berlin'?",
    '"Europe/Berlin"|"Europe"': "timezone: expected a time zone such as",
    '"Europe/Berlin"|"../etc/passwd"': "timezone: expected a time zone such as",
    'exchange = "orders"\nkey|exchange = "order"\nkey': "no exchange named 'order'; did you mean",
    'key      = "stock.all"|': "to match a binding of 'orders' ('stock.#'), got no key",
    '"stock.all"|"order.all"': "to match a binding of 'orders' ('stock.#'), got 'order.all'",
    '"stock.all"|7': "key: expected a routing key",
    '{ kind = "stocktaking", shelves = [1, 2] }|"all"': "payload: expected a table",
    "shelves = [1, 2]|shelves = [1, 2026-01-31]": "expected a value that JSON can represent: write",
    "shelves = [1, 2]|shelves = nan": "expected a finite number",
    "payload  =|headers = ['a']\npayload =": "headers: expected a table of header names",
    "payload  =|headers = { when = 2026-01-31 }\npayload =": (
        "[schedules.nightly] headers.when: expected a text, a number or a flag, got 2026-01-31"
    ),
    "payload  =|headers = { x-death = 1 }\npayload =": (
        "expected another name, got 'x-death', which is reserved for feedbus or the broker"
    ),
    "payload  =|headers = { size = inf }\npayload =": "expected a number, got inf",
    "key  |kee  ": "unknown option; did you mean 'key'?",
    '{ type = "topic" }|{ type = "topic", content_type = "text/plain" }': (
        "exchange: 'orders' publishes text/plain, and a schedule's payload is JSON"
    ),
    '{ kind = "stocktaking"|{ feedbus-raw = "stocktaking"': (
        "payload.feedbus-raw: the field 'feedbus-raw' is reserved for texts and bytes"
    ),
    '"stocktaking"|"' + "x" * BODY_LIMIT_BYTES + '"': (
        "payload: cannot publish: expected a body of at most 4194304 bytes"
    ),
    "[1, 2]|" + "[" * 200 + "]" * 200: "nested too deeply",
    'payload  =|catch_up = "1s"\npayload =': 'catch_up: expected a duration of at least "10s"',
    "[schedules|[operations]\nenabled = false\n[schedules": (
        "enabled: the operations process fires the [schedules]: expected true"
    ),
}


@pytest.mark.parametrize("keys", ["", 'routing_keys = "stock.#"'])
def test_a_queue_with_wrong_routing_keys_is_one_problem_and_not_one_of_its_schedule(keys):
    text = STOCKTAKING.replace('routing_keys = ["stock.#"]', keys)
    with pytest.raises(TopologyError) as caught:
        config.load(Path("topology.toml"), text=text)
    assert "[queues.count] routing_keys:" in str(caught.value)
    assert "[schedules" not in str(caught.value)


def test_a_schedule_on_a_ring_needs_a_key_as_publish_does(tmp_path):
    ring = START + FEED + '[schedules.hourly]\ncron = "0 * * * *"\nexchange = "feed"\n'
    assert_reported(
        tmp_path,
        ring.replace("[schedules.hourly]", f"{MARK}[schedules.hourly]"),
        "[schedules.hourly] key: the key selects the shard of 'feed': expected a key, got none;"
        ' key = "" sends every message to the same shard',
    )
    assert config.load(write(tmp_path, f'{ring}key = ""\n'), environ={}).schedules["hourly"]


@pytest.mark.parametrize("change", WRONG)
def test_what_is_wrong_with_a_schedule_is_named_with_its_place(change):
    old, new = change.split("|")
    assert old in STOCKTAKING
    with pytest.raises(TopologyError) as caught:
        config.load(Path("topology.toml"), text=STOCKTAKING.replace(old, new))
    found = str(caught.value)
    assert WRONG[change] in found
    assert ("[schedules.nightly" in found) or "[operations]" in found
