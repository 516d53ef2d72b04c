"""Which consumer of the current ring reads which queue of an old ring."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedbus.broker_names import queue_of
from feedbus.generations.old_queue_shares import earlier_tables, readers
from feedbus.topology import Generation, Queue
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System

TABLES = st.dictionaries(st.sampled_from("abc"), st.integers(1, 5), max_size=3)


def generation(tables: dict[str, int]) -> Generation:
    names = [f"{table}_{number}" for table, shards in tables.items() for number in range(shards)]
    return Generation("ring", tuple((name, 1) for name in names))


def reader_of(old: tuple[str, ...], current: tuple[str, ...]) -> dict[str, str]:
    members = [tuple((name, 1) for name in names) for names in (current, old)]
    return dict(readers(*(Generation("ring", each) for each in members)))


@given(TABLES, TABLES)
def test_each_old_queue_has_one_reader_of_its_table_if_the_table_stays(
    old: dict[str, int], current: dict[str, int]
) -> None:
    found = readers(generation(current), generation(old))
    assert set(found) == ({name for name, _ in generation(old).members} if current else set())
    for name, reader in found.items():
        assert queue_of(reader) in current
        assert queue_of(name) not in current or queue_of(reader) == queue_of(name)
    for table in old.keys() & current.keys():
        counts = Counter(reader for name, reader in found.items() if queue_of(name) == table)
        assert max(counts.values()) <= -(-old[table] // current[table])


def test_the_queues_of_a_renamed_table_are_read_by_the_new_table() -> None:
    assert reader_of(("a_0", "a_1", "b_0"), ("b_0", "c_0", "c_1")) == {
        "a_0": "c_0",
        "a_1": "c_1",
        "b_0": "b_0",
    }


def test_the_queues_of_a_removed_table_are_read_by_the_tables_that_stay() -> None:
    assert reader_of(("a_0", "a_1", "b_0"), ("b_0",)) == {"a_0": "b_0", "a_1": "b_0", "b_0": "b_0"}


def test_tables_without_shards_whose_names_end_with_numbers_keep_their_queues() -> None:
    assert reader_of(("a_1", "a_2"), ("a_2", "a_1")) == {"a_1": "a_1", "a_2": "a_2"}


def on_ring(name: str, shards: int) -> Queue:
    weights = (1,) * shards
    return queue(name, exchange="ring", routing_keys=(), shards=shards, weights=weights)


@pytest.mark.parametrize("shards", [1, 3])
def test_after_a_change_of_shards_each_record_is_handled_by_its_table(
    tmp_path: Path, shards: int
) -> None:
    with closing_store():
        before = System.at(tmp_path, on_ring("a", 2), on_ring("b", 2))
        for number in range(40):
            before.publish([number], "ring", f"key-{number}")
        ready = before.ready()
        after = before.reshaped(on_ring("a", shards), on_ring("b", 2))
        handled = Counter[str]()

        def count(name: str) -> Any:
            return lambda _message, _bus: handled.update([queue_of(name)])

        for _ in range(2):
            for name in after.topology.consumers:
                after.run(count(name), name)
    assert handled == {
        table: sum(count for name, count in ready.items() if queue_of(name) == table)
        for table in "ab"
    }


def test_the_earlier_tables_are_those_that_the_current_ring_does_not_have() -> None:
    first, second = generation({"a": 2, "b": 1}), generation({"b": 2, "c": 1})
    assert earlier_tables(generation({"b": 1, "d": 3}), (first, second)) == ["a", "c"]
    assert earlier_tables(first, (second, first)) == ["c"]
    members = Generation("ring", (("a_1", 1), ("a_2", 1)))
    assert earlier_tables(first, (members,)) == ["a_1", "a_2"]
