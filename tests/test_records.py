"""Records, packs and validation by column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from feedbus.errors import Drop, InvalidBody, Reject, Retry
from feedbus.handling.message_types.marshmallow_schemas import SchemaType
from feedbus.records import Records
from feedbus.records.batch import LARGE, Batch, Chunk
from feedbus.records.ids import Ids
from feedbus.records.packs import (
    Pack,
    decode,
    decode_payload,
    encode_payload,
    single,
)
from feedbus.wire.constants import JSON, PACK

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 200),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)
names = st.sampled_from(["id", "followerId", "text", "flag", "note", "stranger"])


class ByField(Schema):
    """Each field stands alone."""

    id = fields.Integer(strict=True, required=True, validate=validate.Range(min=1))
    follower_id = fields.Integer(strict=True, data_key="followerId", required=True)
    text = fields.String(required=True, validate=validate.Length(max=3))
    flag = fields.Boolean(load_default=False)
    note = fields.String(allow_none=True)


class Lenient(ByField):
    """Leaves out what it does not know."""

    class Meta:
        """How unknown fields are met."""

        unknown = EXCLUDE


class Hooked(ByField):
    """Has a rule over the whole record."""

    @post_load
    def add(self, loaded: dict[str, Any], **_: object) -> dict[str, Any]:
        """Add a field that the message does not have."""
        return {**loaded, "sum": loaded["id"] + loaded["follower_id"]}


def row_by_row(schema: Schema, pack: Pack) -> tuple[dict[str, dict[str, Any]], dict[int, Any]]:
    """Load every record on its own, as a plain message would be."""
    loaded, errors = {}, {}
    for index, name in enumerate(pack.ids):
        try:
            loaded[name] = schema.load(pack.payload(index))
        except ValidationError as error:
            errors[index] = set(error.messages_dict)
    return loaded, errors


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """Any records with like fields, some of them shared."""
    count = draw(st.integers(1, 5))
    shared = draw(st.dictionaries(names, values, max_size=4))
    columns = draw(
        st.dictionaries(
            names.filter(lambda name: name not in shared),
            st.lists(values, min_size=count, max_size=count),
            max_size=4,
        )
    )
    origins = draw(st.one_of(st.just("o"), st.lists(names, min_size=count, max_size=count)))
    if not isinstance(origins, str) and len(set(origins)) == 1:
        origins = origins[0]
    ids = Ids(origins, list(range(count)))
    return Pack(ids, [str(i) for i in range(count)], shared, columns)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(packs(), st.sampled_from([ByField, Lenient, Hooked]))
def test_loading_by_column_is_loading_row_by_row(pack: Pack, schema: type[Schema]) -> None:
    loaded, errors = row_by_row(schema(), pack)
    found = SchemaType(schema).load(pack)
    rows = {name: found.chunk.row(i) for i, name in enumerate(found.chunk.ids)}
    assert rows == loaded
    assert {name: list(map(type, row.values())) for name, row in rows.items()} == {
        name: [type(row[field]) for field in rows[name]] for name, row in loaded.items()
    }
    assert {index: set(reported) for index, reported in found.errors.items()} == errors


@given(packs())
def test_a_pack_survives_its_encoding(pack: Pack) -> None:
    assert decode(pack.encode(), PACK, "unused", "unused") == pack


def test_keys_that_are_a_columns_text_are_not_stored_twice() -> None:
    pack = Pack.numbered("o", "followerId", {}, {"followerId": [7, 8]})
    assert json.loads(pack.encode())["keys"] == "followerId"
    assert decode(pack.encode(), PACK, "", "").keys == ["7", "8"]


def test_a_plain_message_is_a_pack_of_one() -> None:
    pack = decode(b'{"id": 1}', JSON, "m", "k")
    assert (list(pack.ids), pack.keys, pack.payload(0)) == (["m"], ["k"], {"id": 1})


def test_a_record_has_the_same_id_packed_and_plain() -> None:
    packed = Pack(Ids(["o", "p"], [3, 4]), ["a", "b"], {}, {"id": [1, 2]})
    plain = single(packed.ids[1], "b", {"id": 2}).ids
    assert list(plain) == list(packed.ids)[1:] == ["p-4"]
    assert (plain.origins, plain.ordinals) == ("p", [4])


@pytest.mark.parametrize(
    ("body", "reported"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"id": NaN}', "NaN is not a JSON number"),
        (b'{"id": 1e999}', "1e999 is too large a number"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 * 1024 * 1024), "expected at most 4194304 bytes"),
    ],
)
def test_a_body_that_is_no_record_says_what_it_is(body: bytes, reported: str) -> None:
    with pytest.raises(InvalidBody, match=reported):
        decode(body, JSON, "m", "k")


def test_whatever_is_read_can_be_written_again() -> None:
    body = b'{"text":"half a pair: \\ud800","number":1e308}'
    payload = decode_payload(body)
    assert decode_payload(encode_payload(payload)) == payload


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES, st.booleans(), st.integers(0, 100), st.binary(max_size=3))
@example({"pair": "\ud800"}, True, 0, b"")
@example({"large": 10**400}, True, 0, b"")
@example({"a": 1}, True, 0, b"\xef\xbb\xbf")
@example({"a": 1}, True, 5, b"1e999")
def test_a_body_means_what_the_json_of_the_standard_library_says(
    value: object, escaped: bool, place: int, foreign: bytes
) -> None:
    text = json.dumps({"value": value}, ensure_ascii=escaped).encode(errors="surrogatepass")
    for body in (text, text[:place] + foreign + text[place:]):
        try:
            expected = repr(json.loads(body.decode()))
        except ValueError:
            expected = "refused"
        try:
            found = repr(decode_payload(body))
        except InvalidBody:
            found = "refused"
        infinite = re.search(r"\b(inf|nan)\b", expected)
        assert found == expected or (found == "refused" and (infinite or expected[:1] != "{"))


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), min_size=1))
def test_a_pack_is_written_alike_whatever_its_values(values: list[Any]) -> None:
    pack = Pack.numbered("o", ["k"] * len(values), {"shared": values[0]}, {"column": values})
    fields = {"origins": ["o"], "owners": [], "ordinals": list(range(len(values))), "keys": ["k"]}
    fields |= {"shared": {"shared": values[0]}, "columns": {"column": values}}
    try:
        expected = encode_payload(fields)
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            pack.encode()
    else:
        assert json.loads(pack.encode()) == json.loads(expected)


GOOD = {
    "origins": ["o"],
    "owners": [],
    "ordinals": [0, 1],
    "keys": ["a", "b"],
    "shared": {},
    "columns": {"x": [1, 2]},
}


def test_a_pack_that_is_one_is_read() -> None:
    assert list(decode(json.dumps(GOOD).encode(), PACK, "m", "k").ids) == ["o-0", "o-1"]


@pytest.mark.parametrize(
    "payload",
    [
        {},
        GOOD | {"keys": "gone"},
        GOOD | {"columns": {"x": [1]}},
        GOOD | {"ordinals": [], "keys": []},
        GOOD | {"ordinals": ["a", 1]},
        GOOD | {"ordinals": [-1, 0]},
        GOOD | {"keys": ["a", "b", "c"]},
        GOOD | {"shared": [1]},
        GOOD | {"origins": []},
        GOOD | {"origins": [5]},
        GOOD | {"owners": [0]},
        GOOD | {"owners": [0, 1]},
        GOOD | {"owners": [0, -1]},
    ],
)
def test_a_pack_that_is_none_is_an_invalid_body(payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidBody, match="not a pack"):
        decode(json.dumps(payload).encode(), PACK, "m", "k")


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
    with pytest.raises(IndexError):
        records[3]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Records, list[dict[str, Any]]]:
    """Make records in chunks of which some share the kind and the tags, and the same as rows."""
    chunks: list[Chunk] = []
    rows: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 4))):
        count = draw(st.sampled_from([1, 2, 5, LARGE + 1]))
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


@settings(deadline=None, max_examples=50)
@given(batches(), st.booleans())
def test_choosing_and_grouping_by_column_is_what_it_is_by_row(
    made: tuple[Records, list[dict[str, Any]]], some: bool
) -> None:
    records, rows = made
    if some:  # of a part of the batch as of all of it
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


@settings(deadline=None, max_examples=50)
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


def test_schemas_of_these_tests_differ_in_how_they_meet_unknown_fields() -> None:
    assert (ByField().unknown, Lenient().unknown) == (RAISE, EXCLUDE)


def bomb(shared_bytes: int, count: int) -> bytes:
    """Make a small pack of many records that share much."""
    return json.dumps(
        {
            "origins": ["o"],
            "owners": [],
            "ordinals": list(range(count)),
            "keys": ["k"],
            "shared": {"text": "x" * shared_bytes},
            "columns": {},
        }
    ).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ["k" * 256, "k"]},
        {"keys": ["é" * 128]},
        {"keys": ["\ud800"]},
        {"keys": "n", "columns": {"n": [1, 10**300]}},
        {"keys": "n", "columns": {"n": ["k" * 256, "b"]}},
        {"ordinals": [0, 10**100]},
        {"origins": ["o" * 151]},
        {"origins": ["\ud800"]},
        {"owners": [0, 1]},
        {"shared": ["a"]},
    ],
)
def test_a_pack_whose_records_could_not_travel_alone_is_refused(change):
    with pytest.raises(InvalidBody, match="not a pack"):
        decode(json.dumps(GOOD | change).encode(), PACK, "m", "k")


def test_a_pack_that_expands_too_far_is_refused():
    assert len(decode(bomb(100, 100_000), PACK, "m", "k")) == 100_000
    with pytest.raises(InvalidBody, match="more than 268435456 bytes"):
        decode(bomb(1_000_000, 1000), PACK, "m", "k")


@pytest.mark.parametrize(
    "nested", [b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300, b"[" * 100_000]
)
def test_a_body_that_is_nested_too_deeply_is_refused(nested):
    with pytest.raises(InvalidBody, match="nested too deeply"):
        decode_payload(b'{"n": ' + nested + b"}")
    assert decode_payload(b'{"n": [[[]]]}') == {"n": [[[]]]}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("utf-16", '{"text": "é"}'.encode("utf-16")),
        ("UTF_16_LE", '{"text": "é"}'.encode("utf-16-le")),
        ("latin-1", '{"text": "é"}'.encode("latin-1")),
        ("utf-7", '{"text": "é"}'.encode("utf-7")),
        ("utf-8", '{"text": "é"}'.encode()),
        ("binary", '{"text": "é"}'.encode()),
        (None, '{"text": "é"}'.encode()),
        (7, '{"text": "é"}'.encode()),
    ],
)
def test_a_body_is_read_in_its_content_encoding(encoding, body):
    assert decode(body, JSON, "m", "k", encoding).shared == {"text": "é"}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("utf-7", b'{"text": "+2AA-"}'), ("utf-16", b"x"), ("utf-32", b'{"n": 1}'), ("gzip", b"\x1f")],
)
def test_a_body_that_is_not_in_its_content_encoding_is_refused(encoding, body):
    with pytest.raises(InvalidBody):
        decode(body, JSON, "m", "k", encoding)


def test_unknown_fields_of_a_pack_cost_no_more_the_more_they_are():
    pack = single("m", "k", {"n": 1} | {f"f{number}": 0 for number in range(5000)})

    class Strict(Schema):
        n = fields.Integer()

        class Meta:
            unknown = RAISE

    (errors,) = SchemaType(Strict).load(pack).errors.values()
    assert len(errors) == 10
