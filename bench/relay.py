"""`python -m bench.relay`: how fast the relay publishes the rows that an outage has left.

A private PostgreSQL has the outbox, and a private RabbitMQ has four shards with classic queues. In
turns, rows of different keys and rows of one key are put into the outbox, and the relay publishes
and removes them. Rows of different keys share one wait for their confirms. Rows of one key wait for
each other. The rates are medians of several rounds, and the ratio is the median of the rounds'
ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.store import Store, open_store
from feedbus.store.outbox_publishing import publish_pending
from servers.postgres import Postgres
from servers.rabbitmq import RabbitMQ

ROUNDS = 5
ROWS, ROWS_OF_ONE_KEY = 10_000, 1_000
ROWS_IN_TRANSACTION = 500
TOPOLOGY = """
name = "bench"
broker.url = "{broker}"
store.url = "{store}"
exchanges.feed = {{ type = "x-consistent-hash" }}
queues.shard = {{ exchange = "feed", shards = 4, handler = "none:none" }}
"""


def main() -> None:
    """Measure and print the table."""
    rates: dict[str, list[float]] = {"different keys": [], "one key": []}
    postgres = Postgres.create()
    try:
        with tempfile.TemporaryDirectory() as folder, RabbitMQ(Path(folder)) as node:
            path = Path(folder) / "topology.toml"
            path.write_text(TOPOLOGY.format(broker=node.url, store=postgres.new_database()))
            topology = config.load(path, environ={})
            topology_setup.set_up(topology)
            store = open_store(topology)
            store.set_up()
            try:
                with LiveBus(topology) as bus:
                    for _ in range(ROUNDS):
                        rates["different keys"].append(_rate(store, bus, ROWS, ROWS))
                        rates["one key"].append(_rate(store, bus, ROWS_OF_ONE_KEY, 1))
            finally:
                store.close()
    finally:
        postgres.remove()
    ratios = [many / one for many, one in zip(*rates.values(), strict=True)]
    for name, found in rates.items():
        print(f"{name:<16}{statistics.median(found):>10,.0f} rows/s")
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    print(f"{'ratio':<16}{median:>10.1f} ({low:.1f} to {high:.1f})")


def _rate(store: Store, bus: LiveBus, rows: int, keys: int) -> float:
    """Return how many rows a second the relay publishes, among so many keys."""
    for start in range(0, rows, ROWS_IN_TRANSACTION):
        with store.transaction():
            for number in range(start, start + ROWS_IN_TRANSACTION):
                store.outbox.put("feed", {"number": number}, key=f"key-{number % keys}")
    started = time.perf_counter()
    published = publish_pending(store, bus, "bench", older_than_seconds=0.0)
    seconds = time.perf_counter() - started
    assert published == rows
    return rows / seconds


if __name__ == "__main__":
    main()
