"""Records: read, selected, grouped and given verdicts by column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedbus.errors import Drop, Reject, Retry
from feedbus.records import Records
from feedbus.records.batch import LARGE_BATCH, Batch, Chunk
from feedbus.records.ids import Ids


def test_records_read_by_row_and_by_column_alike() -> None:
    records = Records(
        [
            Chunk(Ids("p", [0, 1]), {"text": "hi"}, {"reader": [7, 8]}, [0, 1]),
            Chunk(Ids("q", None), {"text": "yo", "reader": 9}, {}),
        ]
    )
    assert list(records) == [
        {"text": "hi", "reader": 7},
        {"text": "hi", "reader": 8},
        {"text": "yo", "reader": 9},
    ]
    assert records.column("reader") == [7, 8, 9]
    assert records.column("text") == ["hi", "hi", "yo"]
    assert records.ids == ["p-0", "p-1", "q"]
    assert records[-1] == records[2] == {"text": "yo", "reader": 9}
    assert [single.ids for single in records.singles()] == [["p-0"], ["p-1"], ["q"]]
    assert [single.ids for single in records.batches_of_one()] == [["p-0"], ["p-1"], ["q"]]
    assert records.only(["p-1", "q"]).column("reader") == [8, 9]
    assert records.at([1, 2]).column("reader") == [8, 9]
    assert records.at([0, 2]).ids == ["p-0", "q"]
    with pytest.raises(IndexError):
        records[3]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Records, list[dict[str, Any]]]:
    """Return records in chunks, some with shared fields, and the same records as rows."""
    chunks: list[Chunk] = []
    rows: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        count = draw(st.sampled_from([1, 2, 5, LARGE_BATCH + 1]))
        kind, tags = st.integers(0, 2), st.sampled_from([None, "", "red", "red blue"])
        shared: dict[str, Any] = {"chunk": number}
        columns: dict[str, list[Any]] = {"n": [len(rows) + index for index in range(count)]}
        for name, values in (("kind", kind), ("tags", tags)):
            if draw(st.booleans()):
                shared[name] = draw(values)
            else:
                few = draw(st.lists(values, min_size=1, max_size=5))
                columns[name] = [few[index % len(few)] for index in range(count)]
        chunk = Chunk(Ids(f"m{number}", range(count)), shared, columns, range(count))
        chunks.append(chunk)
        rows += map(chunk.row, range(count))
    return Records(chunks), rows


def numbers(rows: Iterable[Mapping[str, Any]]) -> list[int]:
    return [row["n"] for row in rows]


@settings(max_examples=50)
@given(batches(), st.booleans())
def test_choosing_and_grouping_by_column_is_what_it_is_by_row(
    made: tuple[Records, list[dict[str, Any]]], some: bool
) -> None:
    records, rows = made
    if some:  # the result must be right for a part of the batch, too
        records, rows = records.where("chunk", {1, 2}), [r for r in rows if r["chunk"] in (1, 2)]
    assert list(records) == rows
    assert numbers(records.where("kind", {0, 2})) == numbers(r for r in rows if r["kind"] != 1)
    assert numbers(records.where_not("kind", {1: "x"})) == numbers(
        r for r in rows if r["kind"] != 1
    )
    assert (len(records.where("kind", set())), records.where_not("kind", ())) == (0, records)
    red = [row for row in rows if "red" in (row["tags"] or "")]
    assert numbers(records.where_contains("tags", "red")) == numbers(red)
    by_one: dict[Any, list[int]] = {}
    by_two: dict[Any, list[int]] = {}
    for row in rows:
        by_one.setdefault(row["kind"], []).append(row["n"])
        by_two.setdefault((row["tags"], row["kind"]), []).append(row["n"])
    found = records.group_by("kind")
    assert [(key, group.column("n")) for key, group in found.items()] == list(by_one.items())
    two = records.group_by("tags", "kind")
    assert {key: group.column("n") for key, group in two.items()} == by_two
    assert list(two) == list(by_two)
    for group in two.values():
        assert group.first == group[0] == next(iter(group))
        assert group.ids == [records.ids[numbers(rows).index(n)] for n in group.column("n")]


def test_verdicts_of_a_group_concern_its_records_alone() -> None:
    records = Records.of([{"n": n, "even": n % 2 == 0} for n in range(6)])
    records.where("n", {5}).drop("gone")
    records.where("even", {False}).remaining().reject(lambda row: f"{row['n']} is odd")
    (first, *_) = records.group_by("even")[True].singles()
    first.retry("not yet", after_seconds=3)
    kinds = {place: (type(v), v.reason) for place, v in records.verdicts.items()}
    assert kinds == {
        5: (Drop, "gone"),
        1: (Reject, "1 is odd"),
        3: (Reject, "3 is odd"),
        0: (Retry, "not yet"),
    }
    assert records.remaining().column("n") == [2, 4]
    assert records.remaining().remaining().ids == ["record-2", "record-4"]


def test_a_field_that_records_do_not_have_is_named_beside_those_that_they_have() -> None:
    records = Records.of([{"id": 1, "text": "x"}] * 3)
    for use in (
        lambda: records.column("txt"),
        lambda: records.where("txt", {"x"}),
        lambda: records.where_contains("txt", "x"),
        lambda: records.group_by("id", "txt"),
        lambda: Records(packs_of_one_message()).group_by("txt"),
    ):
        with pytest.raises(KeyError, match="no field 'txt'; their fields are: id, text"):
            use()
    with pytest.raises(IndexError):
        _ = records.where("id", {2}).first
    with pytest.raises(TypeError, match=r"expected a set of values, got 'x'; write \{'x'\}"):
        records.where("text", "x")
    with pytest.raises(TypeError, match="expected the name of a field"):
        records.group_by()


def packs_of_one_message() -> list[Chunk]:
    return [Chunk(Ids("m", range(20)), {"id": 1}, {"text": ["x"] * 20}, range(20))]


@settings(max_examples=50)
@given(batches())
def test_segments_have_every_record_once_in_order(
    made: tuple[Records, list[dict[str, Any]]],
) -> None:
    records, rows = made
    batch: Batch = records.batch
    wanted = [place for place, row in enumerate(rows) if row["kind"] != 1]
    for places in (range(len(rows)), wanted):
        found = list(batch.segments(places, ["kind"]))
        assert [place for _, part in found for place in part] == list(places)
        for common, part in found:
            assert all(rows[place] | common == rows[place] for place in part)
