"""A handler that closes the connection of its store fails; it is not taken for an outage."""

from __future__ import annotations

import pytest

from feedbus.store.peewee import bound
from tests.small_topologies import BATCH, queue
from tests.systems import System


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
def test_only_the_record_whose_handler_closes_the_connection_fails(
    empty_store_url, tmp_path, batch
):
    options = {"batch": BATCH} if batch else {}
    system = System.at(
        tmp_path,
        queue(once=True, **options),
        queue("next", exchange="other", routing_keys=("n",)),
        store_url=empty_store_url,
    )

    def handle(message, bus):
        bus.publish("other", message, "n")
        if message["n"] == 2:
            bound().database.connection().close()

    def handle_all(records, _bus):
        records.publish("other", key="n", columns={"n": "n"})
        if 2 in records.column("n"):
            bound().database.connection().close()

    system.publish([1, 2, 3])
    system.run(handle_all if batch else handle, batch=batch, idle_seconds=1.0)
    (letter,) = system.dead()
    assert "closed" in letter.reason
    assert letter.attempts == 3
    assert system.ready() == {"work": 0, "next": 2}
    assert bound().outbox.pending() == []
