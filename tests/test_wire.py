"""Messages on the wire: any content can be read, and is written back unchanged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from traceback import extract_tb
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.basic_message import Message
from amqp.serialization import decode_properties_basic
from hypothesis import given, settings
from hypothesis import strategies as st

from feedbus.errors import InvalidBody, UsageError
from feedbus.records.publish_arguments import without_key
from feedbus.shortened_tracebacks import user_traceback
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.amqp_encoding import ByteArray, Timestamp, read_properties, write_properties
from feedbus.wire.constants import (
    ATTEMPT,
    DEATHS_BEFORE,
    ERRORS,
    FAILED_AT,
    KEY,
    REASON,
    SEALED,
    TRACEBACK,
    UNIDENTIFIED,
)
from feedbus.wire.failed_messages import errors_text, reason_text, traceback_text
from feedbus.wire.message_in_message import fit_properties, seal
from tests import raw_client as raw

PLAIN = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "application_headers": {
        "text": "é",
        "number": 7,
        "long": -(2**62),
        "flag": True,
        "none": None,
        "moment": datetime(2026, 2, 25, 6, 13, 20),  # noqa: DTZ001 -- as py-amqp reads them
        "decimal": Decimal("-1.25"),
        "float": 0.5,
        "table": {"list": [1, "a", [False]]},
        "bytes": b"\xff\xfe",
    },
    "delivery_mode": 2,
    "priority": 9,
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "1000",
    "message_id": "m",
    "timestamp": 1_772_000_000,
    "type": "t",
    "app_id": "a",
}


def message(body: bytes = b"{}", *, key: str = "k", tag: int = 1, **properties: Any) -> Any:
    """Return a message as a channel delivers it."""
    info = {"routing_key": key, "exchange": "x", "delivery_tag": tag}
    return SimpleNamespace(
        delivery_info=info, delivery_tag=tag, properties=properties, body=body, undecodable=()
    )


def test_what_is_written_is_what_py_amqp_writes_but_for_the_letter_of_long_integers():
    found, undecodable = read_properties(Message("", **PLAIN)._serialize_properties(), 0)
    assert (found, undecodable) == (PLAIN, [])
    assert decode_properties_basic(write_properties(PLAIN), 0)[0] == PLAIN


@settings(max_examples=300)
@given(raw.all_properties)
def test_any_properties_are_read_and_written_back_with_the_same_values(properties):
    found, undecodable = read_properties(properties, 0)
    again, undecodable_again = read_properties(write_properties(found), 0)
    assert repr(again) == repr(found)  # repr(), because NaN is not equal to itself
    assert set(undecodable_again) <= set(
        undecodable
    )  # if a table has a name twice, the last value is kept


@pytest.mark.parametrize(
    ("properties", "part"),
    [
        ({8: raw.text(b"\xff")}, "message_id is not UTF-8: b'\\xff'"),
        ({0: raw.text(b"\xed\xa0\x80")}, "content_type is not UTF-8: b'\\xed\\xa0\\x80'"),
        (
            {2: raw.table([(b"when", b"T" + struct.pack(">Q", 1_772_000_000_000))])},
            "header 'when' is not a valid time: 1772000000000 seconds after 1970",
        ),
        ({2: raw.table([(b"\xff", b"V")])}, "the name of a header is not UTF-8: b'\\xff'"),
        (
            {2: raw.table([(b"deep", raw.nested(2000))])},
            "header 'deep' is nested too deeply: more than 32 levels",
        ),
    ],
)
def test_what_cannot_be_decoded_is_named_and_comes_back_byte_for_byte(properties, part):
    encoded = raw.properties(properties)
    found, undecodable = read_properties(encoded, 0)
    assert undecodable == [part]
    assert write_properties(found) == encoded


def test_a_byte_array_stays_one_and_text_that_is_not_utf8_is_decoded():
    encoded = raw.properties(
        {2: raw.table([(b"a", b"x" + raw.sized(b"abc")), (b"b", b"S" + raw.sized(b"\xff"))])}
    )
    found, undecodable = read_properties(encoded, 0)
    assert found["application_headers"] == {"a": ByteArray(b"abc"), "b": b"\xff"}
    assert undecodable == []
    assert write_properties(found) == encoded


def test_a_message_without_id_has_the_same_one_at_each_redelivery():
    first = Delivery.of(message(b"{}", application_headers={"a": 1}))
    headers = {
        "x-delivery-count": 3,
        "x-death": [{"queue": "q"}],
        "x-last-death-queue": "q",
        "a": 1,
    }
    again = Delivery.of(message(b"{}", tag=9, application_headers=headers))
    assert first.message_id == again.message_id
    assert not first.identified


@pytest.mark.parametrize(
    "other",
    [
        message(b"{ }", application_headers={"a": 1}),
        message(key="other", application_headers={"a": 1}),
        message(application_headers={"a": 2}),
        message(application_headers={"a": 1}, content_type="text/plain"),
        message(application_headers={"a": 1}, correlation_id="c"),
        message(application_headers={"a": 1}, timestamp=1),
    ],
)
def test_messages_without_ids_that_differ_have_different_ones(other):
    assert (
        Delivery.of(other).message_id
        != Delivery.of(message(application_headers={"a": 1})).message_id
    )


@pytest.mark.parametrize("bad", ["", "x" * 256, "é" * 128, "\ud800", 7, None])
def test_a_message_id_that_is_none_is_replaced_by_a_derived_one(bad):
    properties = {} if bad is None else {"message_id": bad}
    found = Delivery.of(message(**properties))
    assert found.message_id == Delivery.of(message()).message_id
    assert not found.identified
    assert Delivery.of(message(message_id="x" * 255)).identified


@pytest.mark.parametrize("headers", [None, [], "text", {"feedbus-records": "many"}])
def test_headers_of_any_kind_are_read(headers):
    assert Delivery.of(message(application_headers=headers)).record_count == 1


@pytest.mark.parametrize("count", [-1, 0, 2**40, True, 1.5, "9", None])
def test_a_count_of_records_that_is_none_counts_as_one(count):
    found = Delivery.of(message(application_headers={"feedbus-records": count}))
    assert found.record_count == 1


def letter(**options: Any) -> Outgoing:
    """Return a dead letter."""
    headers = {ATTEMPT: 1, FAILED_AT: 1, KEY: "k", REASON: "r", ERRORS: "{}"}
    headers |= options.pop("headers", {})
    return Outgoing("", "dead", b"body", "text/plain", "m", headers, "dead-letter", **options)


def arrived(sent: Outgoing) -> Delivery:
    """Read the sent data."""
    return Delivery.of(message(sent.body, **sent.all_properties()))


def test_a_sealed_message_is_read_as_the_one_in_it():
    own = {"when": Timestamp(2**63), "text": "x"}
    sent = seal(letter(headers=own, properties={"message_id": "\udcff", "priority": 3}))
    assert sent.content_type == SEALED
    assert not own.keys() & sent.headers.keys()
    found = arrived(sent)
    assert (found.body, found.content_type, found.message_id) == (b"body", "text/plain", "m")
    assert found.properties["message_id"] == "\udcff"
    assert found.properties["priority"] == 3
    assert found.headers["when"] == 2**63
    assert found.headers[REASON] == "r"
    assert found.undecodable


@pytest.mark.parametrize("body", [b"", b"\0", b"\xff\xff\xff\xff", b"\0\0\0\1x", b"\0\0\0\2\x80\0"])
def test_what_only_says_that_it_is_sealed_is_a_fault(body):
    found = Delivery.of(message(body, content_type=SEALED, application_headers={ATTEMPT: 1}))
    assert found.undecodable
    assert found.body == body


def test_headers_that_do_not_fit_into_a_frame_go_into_the_body_of_a_dead_letter():
    sent = letter(headers={"large": "x" * 5000})
    assert fit_properties(sent, None) is sent
    assert fit_properties(sent, 131_072) is sent
    small = fit_properties(sent, 4096)
    assert len(write_properties(small.all_properties())) < 4096 - 20
    assert arrived(small).headers["large"] == "x" * 5000


def test_errors_are_cut_where_even_they_do_not_fit():
    sent = letter(headers={ERRORS: "x" * 8000, REASON: "y" * 1000})
    small = fit_properties(sent, 4096)
    assert len(write_properties(small.all_properties())) < 4096 - 20
    assert "left out" in arrived(small).headers[ERRORS]


def test_a_publisher_of_ours_with_too_large_headers_gets_a_usage_error():
    sent = Outgoing("x", "k", b"", "t", "m", {"a": "x" * 131_072}, properties={"type": "t"})
    with pytest.raises(UsageError, match="bytes of headers and properties, got 131"):
        fit_properties(sent, 131_072)


def test_few_headers_are_compared_with_a_small_frame_too():
    sent = Outgoing("x", "k", b"", "t", "m", {"a": "x" * 5_000})
    assert fit_properties(sent, 131_072) is sent
    with pytest.raises(UsageError, match="bytes of headers and properties, got 5"):
        fit_properties(sent, 4096)


def test_a_waiting_record_is_sealed_and_gets_no_reason():
    headers = {ATTEMPT: 0, KEY: "k", DEATHS_BEFORE: {"x-death": ["x" * 5_000]}}
    small = fit_properties(Outgoing("", "q", b"body", "t", "m", headers), 4096)
    assert small.headers == {ATTEMPT: 0, KEY: "k"}
    found = arrived(small)
    assert found.headers == {**small.headers, "x-death": ["x" * 5_000]}
    assert found.properties["message_id"] == "m"


@given(st.dictionaries(st.text(max_size=300), st.lists(st.text(max_size=300))), st.text())
def test_reasons_and_errors_are_bounded_text(errors, reason):
    assert len(errors_text(InvalidBody(errors).errors)) < 8_200
    assert len(reason_text(reason * 1000).encode()) <= 1000


def raised(call: Callable[[], object]) -> BaseException:
    """Return the exception of a call, with its traceback."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 -- the tests raise anything
        return error
    raise AssertionError


class UnprintableError(Exception):
    """An exception of a handler without a text."""

    def __str__(self) -> str:
        raise ValueError


def test_a_traceback_ends_with_the_exception_and_has_no_values_of_variables():
    secret = "s3cret"

    def fail() -> None:
        assert len(secret) == 6
        _ = 1 / 0

    text = traceback_text(raised(fail))
    assert text.endswith("ZeroDivisionError: division by zero")
    assert "in fail\n    _ = 1 / 0" in text
    assert "s3cret" not in text


@pytest.mark.parametrize("text", ["x" * 100_000, "line\n" * 20_000, "\udcff" * 5_000, "🙂" * 5_000])
def test_a_traceback_is_bounded_and_keeps_the_calls_of_the_handler(text):
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
            deep(0)  # so that the traceback has no equal lines
        raise ValueError(text)

    found = traceback_text(raised(lambda: deep(200)))
    assert len(found.encode()) <= 4096
    assert "in deep" in found
    assert "ValueError: " in found


def test_the_traceback_of_an_exception_without_a_text_has_its_calls():
    def fail() -> None:
        raise UnprintableError

    assert "in fail" in traceback_text(raised(fail))


def test_a_traceback_that_has_no_call_of_the_users_code_keeps_all_calls():
    text = traceback_text(raised(lambda: json.loads("{")))
    assert "in raised\n" in text  # this test is the user's code
    error = raised(lambda: json.loads("{"))
    while error.__traceback__ is not None and "json" not in str(error.__traceback__.tb_frame):
        error.__traceback__ = error.__traceback__.tb_next
    assert "in loads\n" in traceback_text(error)


def test_the_traceback_of_an_exception_of_feedbus_has_only_calls_of_the_users_code():
    def fail() -> None:
        without_key("feed", has_shards=True)

    def fail_again() -> None:
        try:
            fail()
        except UsageError as error:
            raise LookupError from error

    for error, calls in ((raised(fail), 2), (raised(fail_again), 4)):
        text = traceback_text(error)
        assert "in fail\n" in text
        assert "in without_key\n" not in text
        assert text.count('File "') == calls
    logged = extract_tb(user_traceback(raised(fail)))
    assert [call.name for call in logged] == ["raised", "fail"]


def test_a_traceback_is_left_out_where_it_does_not_fit():
    sent = letter(headers={TRACEBACK: "x" * 4096, "own": "kept"})
    assert fit_properties(sent, 131_072) is sent
    small = fit_properties(sent, 4096)
    assert small.headers == letter(headers={"own": "kept"}).headers


def test_only_the_first_of_too_many_errors_are_kept():
    errors = {f"field{n}" + "x" * 300: ["unknown " * 100] * 10 for n in range(5000)}
    found = InvalidBody(errors)
    assert len(found.errors) == 21
    assert found.errors[""] == ["and 4,980 more fields"]
    assert len(str(found)) < 50_000


def test_a_derived_id_is_not_carried_as_the_publishers_own():
    sent = letter(headers={UNIDENTIFIED: True})
    found = arrived(sent)
    assert "message_id" not in found.properties
    assert not found.identified
    assert found.message_id == "m"
