"""Queues and topologies for tests: small, with short waits and quick retries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from feedbus.topology import Batch, Exchange, Queue, RetryPolicy, StoreOptions, Topology
from feedbus.urls import parse_broker_url, parse_store_url

BATCH = Batch(1000, 0.02)
QUICK = RetryPolicy((0.02, 0.05), "dead-letter")


def queue(name: str = "work", **options: Any) -> Queue:
    """Make a queue with a quick retry policy."""
    defaults = {"exchange": "work", "handler": "tests:none", "routing_keys": ("",), "retry": QUICK}
    return Queue(name=name, **{**defaults, **options})


def sharded(shards: int, **options: Any) -> Queue:
    """Make a sharded queue on the hash exchange "ring"."""
    return queue(
        "shard",
        **{"exchange": "ring", "routing_keys": (), "shards": shards, "weights": (1,) * shards}
        | options,
    )


def undeclared(pack: int = 3) -> Topology:
    """Return a topology that is declared nowhere."""
    return Topology(
        name="t",
        path=Path("/nowhere/topology.toml"),
        broker_url=parse_broker_url("sqlite:////nowhere/broker.db"),
        store=StoreOptions(url=parse_store_url("sqlite:////nowhere/store.db")),
        exchanges={
            "ring": Exchange("ring", "x-consistent-hash", pack),
            "work": Exchange("work", "direct", pack),
        },
        queues={"shard": sharded(4)},
    )
