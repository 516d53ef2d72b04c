"""Bodies and packs: which ones are written, read and refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedbus.codecs import Codecs
from feedbus.errors import InvalidBody
from feedbus.handling.message_types.record_loader import Reads
from feedbus.records.ids import Ids
from feedbus.records.packs import (
    Pack,
    decode,
    decode_payload,
    encode_payload,
    pack_of_one,
)
from feedbus.records.payloads import ENCODINGS
from feedbus.records.raw_payload import RAW
from feedbus.wire.constants import JSON, PACK
from tests.any_packs import packs


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
    plain = pack_of_one(packed.ids[1], "b", {"id": 2}).ids
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


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"columns": 1}, "columns: expected a JSON object, got int"),
        ({"columns": {"x": 7}}, "columns: 'x': expected a list, got int"),
        ({"columns": {"x": [1]}}, "columns: 'x': expected 2 values, one for each ordinal, got 1"),
        ({"origins": "o"}, "origins: expected a list, got str"),
        ({"origins": []}, "origins: expected at least one text"),
        ({"owners": None}, "owners: expected a list, got NoneType"),
        ({"owners": [0, 1]}, "owners: expected integers from 0 to 0"),
        ({"ordinals": {}}, "ordinals: expected a list, got dict"),
        ({"ordinals": [0, True]}, "ordinals: expected integers from 0 to "),
        ({"keys": "gone"}, "keys: there is no column 'gone'"),
        ({"keys": 1}, "keys: expected a list, got int"),
        ({"keys": ["a", "b", "c"]}, "keys: expected 2 values, one for each ordinal, got 3"),
        ({"keys": ["\ud800", "b"]}, "keys: a text contains half of a surrogate pair"),
        ({"keys": [], "ordinals": [], "columns": {}}, "keys: expected at least one key, got none"),
        ({"shared": []}, "shared: expected a JSON object, got list"),
    ],
)
def test_the_error_of_a_bad_pack_names_the_part_and_what_was_expected(change, reported):
    with pytest.raises(InvalidBody) as caught:
        decode(json.dumps(GOOD | change).encode(), PACK, "m", "k")
    (text,) = caught.value.errors[""]
    assert text.startswith(f"not a pack: {reported}")


@pytest.mark.parametrize("name", [*GOOD])
def test_the_error_of_a_pack_names_the_part_that_is_missing(name):
    body = {each: value for each, value in GOOD.items() if each != name}
    with pytest.raises(InvalidBody, match=f"^body: not a pack: {name}: "):
        decode(json.dumps(body).encode(), PACK, "m", "k")


PARTS = st.fixed_dictionaries(
    {}, optional={name: st.just(part) | JSON_VALUES for name, part in GOOD.items()}
)
PYTHONS_OWN = re.compile(r"\w(Error|Exception)\b|object has no|not iterable|unhashable|sys\.")


@given(
    st.binary()
    | JSON_VALUES.map(lambda value: json.dumps(value).encode())
    | PARTS.map(lambda parts: json.dumps(parts).encode()),
    st.sampled_from([PACK, JSON, None, "text/plain"]),
    st.none() | st.sampled_from(sorted(ENCODINGS)) | st.text() | st.binary() | st.integers(),
    st.sampled_from(["object", "text", "bytes"]),
)
@example(b'{"n": ' + b"7" * 5_000 + b"}", JSON, None, "object")
@example(b'{"columns": 1}', PACK, None, "object")
def test_any_body_is_records_or_an_error_in_words_of_the_message(
    body: bytes, content_type: str | None, encoding: object, reads: Reads
) -> None:
    codecs = Codecs({})
    try:
        pack = codecs.read(
            body, content_type, "m", "k", content_encoding=encoding, headers={}, reads=reads
        )
    except InvalidBody as error:
        assert error.errors  # noqa: PT017 -- either way is right
        assert not PYTHONS_OWN.search(str(error))  # noqa: PT017 -- either way is right
    else:
        for row in range(len(pack)):
            assert len(pack.key(row).encode()) <= 255
            assert pack.ids[row]
            payload = pack.payload(row)
            if not isinstance(payload.get(RAW), bytes):
                assert decode_payload(encode_payload(payload)) == payload


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
