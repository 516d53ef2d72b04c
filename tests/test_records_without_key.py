"""Records without the field that `order_by` names become dead letters, and others are handled."""

from __future__ import annotations

from typing import Any

import pytest

from feedbus import broker
from feedbus.records import Records
from servers import versions
from tests.small_topologies import queue
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])


@pytest.mark.parametrize("pack", [1, 10])
@pytest.mark.parametrize(("concurrency", "batch"), [(1, False), (1, True), (4, False)])
def test_only_records_without_a_key_become_dead_letters(make, concurrency, batch, pack):
    options = {"concurrency": concurrency, "prefetch": 20, "single_active_consumer": True}
    system = make(queue(order_by="key", **options), pack=pack)
    keys: list[Any] = ["a", None, "a", ["a"], {"a": 1}, "b", 7, True]
    with system.bus() as bus:
        bus.publish("work", {"n": -1})
        bus.publish_many("work", [({"n": n, "key": key}, "") for n, key in enumerate(keys)])
        bus.publish("work", {"n": len(keys), "key": "a"})
    with broker.connect(system.topology) as connection:
        channel = connection.channel()
        message = channel.prepare_message(b"{", content_type="application/json")
        channel.basic_publish(message, f"{system.topology.name}.work")

    def note_all(records: Records, _bus: Any = None) -> None:
        system.seen.extend(records.column("n"))

    system.run(note_all if batch else system.note, batch=batch)
    assert sorted(system.seen) == [0, 2, 5, 6, 7, 8]
    assert [number for number in system.seen if number in {0, 2, 8}] == [0, 2, 8]
    reasons = sorted(letter.reason.partition(", got ")[2] for letter in system.dead())
    assert len(reasons) == 5
    assert {"a record without it", "null", "list", "dict"} < set(reasons)
