"""A publisher that can put any bytes into properties, headers and routing keys."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import amqp
from hypothesis import strategies as st

from feedbus.wire import constants
from tests.projects import PATIENCE_SECONDS

HEADERS, DELIVERY_MODE, PRIORITY, EXPIRATION, TIMESTAMP, USER_ID = 2, 3, 4, 7, 9, 11


@dataclass(frozen=True, slots=True)
class Raw:
    """The bytes of a message: flags and properties, the routing key, the body."""

    properties: bytes
    routing_key: bytes
    body: bytes


class RawMessage(amqp.Message):
    """A message whose properties are given as bytes."""

    raw = b""

    def _serialize_properties(self) -> bytes:
        return self.raw


def publish(channel: Any, exchange: str, raw: Raw) -> None:
    """Publish on a channel of py-amqp's own."""
    message = RawMessage(raw.body)
    message.raw = raw.properties
    channel.basic_publish(message, exchange, raw.routing_key)


@contextmanager
def publisher(port: int) -> Iterator[Callable[[str, Raw], None]]:
    """Connect, and return a function that publishes to an exchange and waits for the confirm."""
    with amqp.Connection(f"127.0.0.1:{port}", confirm_publish=False) as connection:
        channel = connection.channel()
        channel.confirm_select()
        confirmed = 0

        def on_ack(_tag: int, _multiple: bool) -> None:
            nonlocal confirmed
            confirmed += 1

        channel.events["basic_ack"].add(on_ack)

        def publish_one(exchange: str, raw: Raw) -> None:
            awaited = confirmed + 1
            publish(channel, exchange, raw)
            while confirmed < awaited:
                connection.drain_events(timeout=PATIENCE_SECONDS)

        yield publish_one


def text(raw: bytes) -> bytes:
    """Encode a text of at most 255 bytes."""
    return bytes((len(raw),)) + raw


def sized(raw: bytes) -> bytes:
    """Encode bytes with their length before them."""
    return struct.pack(">I", len(raw)) + raw


def table(fields: list[tuple[bytes, bytes]]) -> bytes:
    """Encode a table of names and encoded values."""
    return sized(b"".join(text(name) + value for name, value in fields))


def properties(values: dict[int, bytes]) -> bytes:
    """Encode properties by their places."""
    flags = sum(1 << 15 - place for place in values)
    return struct.pack(">H", flags) + b"".join(values[place] for place in sorted(values))


def number(letter: bytes, code: str, least: int, most: int) -> st.SearchStrategy[bytes]:
    """Values of one of AMQP's types of integers."""
    return st.integers(least, most).map(lambda value: letter + struct.pack(f">{code}", value))


odd_texts = st.one_of(
    st.text(max_size=20).map(lambda each: each.encode(errors="surrogatepass")[:255]),
    st.binary(max_size=20),
    st.sampled_from(
        [b"", b"\xff", b"\xed\xa0\x80", b"a\x1b[31m\n\xc2\x9b\xe2\x80\xae", b"x" * 255]
    ),
)
OWN_HEADERS = sorted(
    name.encode()
    for constant, name in vars(constants).items()
    if constant.isupper() and isinstance(name, str) and name.startswith("feedbus-")
)
EACH_TYPE = (  # one value of each type that Python reads differently
    *(b"V", b"t\x01", b"b\xff", b"l" + b"\xff" * 8, b"d" + b"\7" * 8, b"D\2" + b"\7" * 4),
    *(b"T" + b"\7" * 8, b"S" + sized(b"7"), b"S" + sized(b"\xff"), b"x" + sized(b"\0\1")),
    *(b"A" + sized(b"b\1"), b"F" + table([(b"n", b"b\1")])),
)
own_names = st.sampled_from(OWN_HEADERS)
brokers_names = st.sampled_from([b"x-death", b"x-delivery-count", b"x-first-death-queue"])
names = st.one_of(odd_texts, own_names, own_names, brokers_names)
plain_values = st.one_of(
    st.just(b"V"),
    st.booleans().map(lambda value: b"t" + bytes((value,))),
    number(b"b", "b", -(2**7), 2**7 - 1),
    number(b"B", "B", 0, 2**8 - 1),
    number(b"s", "h", -(2**15), 2**15 - 1),
    number(b"u", "H", 0, 2**16 - 1),
    number(b"I", "i", -(2**31), 2**31 - 1),
    number(b"i", "I", 0, 2**32 - 1),
    number(b"l", "q", -(2**63), 2**63 - 1),
    number(b"T", "Q", 0, 2**64 - 1),
    st.sampled_from([1_772_000_000_000, 2**64 - 1, 2**63, 253_402_300_800]).map(
        lambda value: b"T" + struct.pack(">Q", value)
    ),
    st.floats(width=32).map(lambda value: b"f" + struct.pack(">f", value)),
    st.floats().map(lambda value: b"d" + struct.pack(">d", value)),
    st.tuples(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)).map(
        lambda value: b"D" + struct.pack(">Bi", *value)
    ),
    st.binary(max_size=30).map(lambda value: b"S" + sized(value)),
    st.text(max_size=20).map(lambda value: b"S" + sized(value.encode(errors="surrogatepass"))),
    st.binary(max_size=30).map(lambda value: b"x" + sized(value)),
)
values = st.recursive(
    plain_values,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: b"A" + sized(b"".join(each))),
        st.lists(st.tuples(names, inner), max_size=3).map(lambda each: b"F" + table(each)),
    ),
    max_leaves=6,
)


def nested(depth: int) -> bytes:
    """Return an array in an array and so on."""
    value = b"A" + sized(b"")
    for _ in range(depth):
        value = b"A" + sized(value)
    return value


tables = st.one_of(
    st.lists(st.tuples(names, values), max_size=4),
    st.integers(20, 2000).map(lambda depth: [(b"deep", nested(depth))]),
    st.integers(1000, 130_000).map(lambda size: [(b"large", b"S" + sized(b"x" * size))]),
).map(table)
content_types = st.one_of(
    odd_texts,
    st.sampled_from(
        [
            *(b"application/json", b"application/vnd.feedbus.pack+json", b"text/plain"),
            b"application/vnd.feedbus.sealed",
        ]
    ),
)
encodings = st.one_of(
    odd_texts,
    st.sampled_from(
        [
            b"utf-8",
            b"utf-7",
            b"utf-16",
            b"latin-1",
            b"gzip",
            b"zlib",
            b"punycode",
            b"idna",
            b"binary",
        ]
    ),
)
all_properties = st.fixed_dictionaries(
    {},
    optional={
        0: content_types.map(text),
        1: encodings.map(text),
        HEADERS: tables,
        DELIVERY_MODE: st.sampled_from([b"\x01", b"\x02"]),
        PRIORITY: st.integers(0, 255).map(lambda value: bytes((value,))),
        5: odd_texts.map(text),
        6: odd_texts.filter(lambda each: not each.startswith(b"amq.")).map(text),
        EXPIRATION: st.integers(100_000, 2**32 - 1).map(lambda value: text(b"%d" % value)),
        8: odd_texts.map(text),
        TIMESTAMP: st.integers(0, 2**64 - 1).map(lambda value: struct.pack(">Q", value)),
        10: odd_texts.map(text),
        12: odd_texts.map(text),
        13: odd_texts.map(text),
    },
).map(properties)

json_texts = st.sampled_from(
    [
        *(
            b'{"n": 1}',
            b'{"n": "x"}',
            b"{}",
            b"[]",
            b"",
            b"null",
            b'{"n": 1, "n": 2}',
            b'{"n": NaN}',
        ),
        *(b'{"n": 1e999}', b'{"n": 1, "text": "\\ud800"}', b'{"n": %s}' % (b"9" * 5000), b"\xff"),
        *(b'{"n": 1, "x": ' + b"[" * 990 + b"]" * 990 + b"}", b'{"n": ' + b"[" * 5000),
        *('{"n": 1, "text": "é"}'.encode("utf-16"), b'{"n": 1, "text": "+2AA-"}', b"x" * 200_000),
        b'{"n": 1, "' + b"f" * 200_000 + b'": 2}',
        b'{"n": 1' + b"".join(b', "f%d": 0' % each for each in range(5000)) + b"}",
    ]
)
packs = st.fixed_dictionaries(
    {
        "origins": st.lists(st.text(max_size=5) | st.just("o" * 300), max_size=2),
        "owners": st.lists(st.integers(-1, 2), max_size=3),
        "ordinals": st.lists(st.integers(-1, 5) | st.just(10**200), max_size=3),
        "keys": st.sampled_from(["n", "x", ""])
        | st.lists(st.text(max_size=3) | st.just("k" * 300)),
        "shared": st.dictionaries(st.sampled_from(["n", "text", "odd"]), st.integers() | st.text()),
        "columns": st.dictionaries(
            st.sampled_from(["n", "text", "odd"]), st.lists(st.integers() | st.text(), max_size=3)
        ),
    }
)
