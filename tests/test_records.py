"""Records, packs and validation by column."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, post_load, validate

from feedbus.errors import InvalidBody
from feedbus.records import Chunk, Records
from feedbus.records.ids import Ids
from feedbus.records.loading import load
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
@given(packs(), st.sampled_from([ByField(), Lenient(), Hooked()]))
def test_loading_by_column_is_loading_row_by_row(pack: Pack, schema: Schema) -> None:
    loaded, errors = row_by_row(schema, pack)
    found = load(schema, pack)
    rows = {name: found.chunk.row(i) for i, name in enumerate(found.chunk.ids)}
    assert rows == loaded
    assert {name: list(map(type, row.values())) for name, row in rows.items()} == {
        name: [type(row[field]) for field in rows[name]] for name, row in loaded.items()
    }
    assert {index: set(told) for index, told in found.errors.items()} == errors


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
    ("body", "told"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"id": NaN}', "NaN is no JSON number"),
        (b'{"id": 1e999}', "1e999 is too large a number"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (5 * 1024 * 1024), "expected at most 4194304 bytes"),
    ],
)
def test_a_body_that_is_no_record_says_what_it_is(body: bytes, told: str) -> None:
    with pytest.raises(InvalidBody, match=told):
        decode(body, JSON, "m", "k")


def test_whatever_is_read_can_be_written_again() -> None:
    body = b'{"text":"half a pair: \\ud800","number":1e308}'
    payload = decode_payload(body)
    assert decode_payload(encode_payload(payload)) == payload


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
    assert records.only(["p-1", "q"]).column("reader") == [8, 9]
    with pytest.raises(IndexError):
        records[3]


@pytest.mark.parametrize("index", [-4, 3])
def test_a_verdict_on_a_record_that_is_not_there_is_an_error_at_once(index: int) -> None:
    records = Records.of([{}, {}, {}])
    with pytest.raises(IndexError, match="one of 3 records"):
        records.reject(index, "bad")
    with pytest.raises(IndexError, match="one of 3 records"):
        records.retry(index)
    records.reject(-1, "the last")
    assert list(records.verdicts) == [2]


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

    (errors,) = load(Strict(), pack).errors.values()
    assert len(errors) == 10
