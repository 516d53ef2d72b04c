"""The dataclasses of topology.toml: consumers, and the ring that the file declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from feedbus.errors import UsageError
from feedbus.topology import DECLARED, Exchange, Topology
from feedbus.topology.generation import shape_of
from tests.small_topologies import queue, sharded, undeclared

CHANGES: dict[str, Any] = {
    "type": "quorum",
    "single_active_consumer": False,
    "message_ttl_seconds": 60.0,
    "max_length": 10,
    "overflow": "drop-head",
    "arguments": {"x-queue-mode": "lazy"},
}


def shape(exchange: dict[str, Any] | None = None, **options: Any) -> str:
    ring = Exchange("ring", "x-consistent-hash", arguments=exchange or {})
    return shape_of(ring, [sharded(2, **{"single_active_consumer": True} | options)])


def test_a_ring_with_the_default_arguments_has_no_shape() -> None:
    assert shape() == ""


@pytest.mark.parametrize("name", DECLARED)
def test_each_property_with_which_a_queue_is_declared_changes_the_shape(name: str) -> None:
    assert shape(**{name: CHANGES[name]}) != ""


@pytest.mark.parametrize(
    "options", [{"prefetch": 99}, {"concurrency": 4}, {"handler": "other:handler"}]
)
def test_an_option_that_the_broker_does_not_know_keeps_the_shape(options: dict[str, Any]) -> None:
    assert shape(**options) == ""


def test_the_arguments_of_the_exchange_change_the_shape() -> None:
    assert shape({"hash-header": "user"}) != ""


def test_the_queues_of_other_exchanges_do_not_change_a_generation() -> None:
    topology = undeclared()
    other = queue("other", type="quorum")
    more = replace(topology, queues={**topology.queues, "other": other})
    assert more.generation("ring").digest == topology.generation("ring").digest


@pytest.mark.parametrize("kind", ["consumer", "queue", "exchange", "schedule"])
def test_an_unknown_name_is_an_error_that_names_the_known_ones(kind: str) -> None:
    topology: Topology = undeclared()
    known = {
        "consumer": "shard_0, shard_1, shard_2, shard_3",
        "queue": "shard",
        "exchange": "ring, work",
        "schedule": "the topology has none",
    }
    with pytest.raises(UsageError, match=f"no {kind} named 'absent'.*{known[kind]}"):
        getattr(topology, kind)("absent")


def test_the_name_of_a_queue_instead_of_a_consumer_is_answered_with_the_queues_consumers() -> None:
    with pytest.raises(UsageError) as caught:
        undeclared().consumer("shard")
    assert str(caught.value) == (
        "no consumer named 'shard'; queue 'shard' has the consumers shard_0 to shard_3"
    )
