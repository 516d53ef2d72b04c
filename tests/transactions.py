"""Systems whose programs publish in transactions, and a broker that can be unavailable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import feedbus
from feedbus.bus import LiveBus
from feedbus.bus.shared_sender import SharedSender
from feedbus.errors import BrokerOutage
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System


@contextmanager
def system_with_orders(folder: Path) -> Iterator[System]:
    """Yield a system on the embedded broker whose store has a table of orders."""
    with closing_store():
        made = System.at(folder, queue())
        made.store.database.execute_sql("CREATE TABLE orders (n INTEGER)")
        yield made


def impatient_bus(system: System) -> LiveBus:
    """Return a bus that waits for the broker for a moment only."""
    return feedbus.connect(system.topology, store=system.store, timeout_seconds=0.2)


def numbers(system: System) -> list[int]:
    """Return the numbers of the messages in the outbox."""
    return [json.loads(entry.payload)["n"] for entry in system.store.outbox.pending()]


def handled(system: System) -> list[int]:
    """Handle the messages in the queue, and return them in order."""
    system.run(system.note)
    return system.seen


def broken_broker(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list; while it is not empty, the broker is unavailable."""
    away: list[bool] = []
    send = SharedSender._send_with_retries

    def sent(self, messages, timeout_seconds):
        if away:
            return BrokerOutage("away")
        return send(self, messages, timeout_seconds)

    monkeypatch.setattr(SharedSender, "_send_with_retries", sent)
    return away
