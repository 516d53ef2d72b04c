"""Leftover rows of the outbox that were sent are removed, whatever happens to later messages."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from feedbus.bus import Bus
from feedbus.clock import SYSTEM
from feedbus.errors import BrokerOutage, PublishError
from feedbus.store.leftover_rows import MIN_AGE_SECONDS, LeftoverRows
from feedbus.store.peewee import bound
from tests.small_topologies import BATCH, queue
from tests.systems import System


def left() -> list[tuple[str, int]]:
    """Return the key and the number of each row in the outbox."""
    return [(row.key, json.loads(row.payload)["n"]) for row in bound().outbox.pending()]


@pytest.mark.parametrize("error", [BrokerOutage("away"), PublishError([("m", "full")])])
def test_an_error_of_the_broker_does_not_bring_back_leftover_rows_that_were_sent(store_url, error):
    leftovers = LeftoverRows(bound(), "shop", SYSTEM)
    bound().outbox.put("work", {"n": 1}, "a")
    time.sleep(MIN_AGE_SECONDS + 0.1)
    own = bound().outbox.put("work", {"n": 2}, "a")

    def send() -> None:
        with leftovers.hold_earlier(own.id, own.id) as earlier:
            bound().outbox.remove([row.id for row in earlier])
            raise error

    with pytest.raises(type(error)) as raised:
        send()
    assert raised.value is error
    assert left() == [("a", 2)]


@pytest.mark.parametrize(
    "options", [{}, {"batch": BATCH}, {"concurrency": 2}], ids=["single", "batch", "concurrent"]
)
@pytest.mark.parametrize("has_leftover_row", [True, False])
def test_only_the_refused_message_of_a_call_stays_in_the_outbox(
    empty_store_url: str, tmp_path: Path, options: dict[str, Any], has_leftover_row: bool
) -> None:
    def publish(given: Any, bus: Bus) -> None:
        for key in ("free", "full"):
            if "batch" in options:
                records = given.where("n", {3}) if key == "full" else given
                records.publish("other", key=key, columns={"n": "n"})
            elif key == "free" or given["n"] == 3:
                bus.publish("other", given, key)

    system = System.at(
        tmp_path,
        queue(once=True, **options),
        queue("free", exchange="other", routing_keys=("free",)),
        queue(
            "full",
            exchange="other",
            routing_keys=("full",),
            max_length=1,
            overflow="reject-publish",
        ),
        store_url=empty_store_url,
    )
    system.publish([1], "other", "full")
    if has_leftover_row:
        bound().outbox.put("other", {"n": 2}, "free")
    # In a run of its own, the first call would query the outbox for leftover rows.
    system.publish([3] if has_leftover_row else [0, 3])
    system.run(publish, batch="batch" in options)
    assert left() == [("full", 3)]
    assert system.ready() == {"work": 0, "free": 2, "full": 1}
    assert system.dead() == []
