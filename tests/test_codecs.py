"""Bodies that are not JSON: text, bytes, and content types of the project's codecs."""

from __future__ import annotations

import gzip
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from feedbus import Raw, config
from feedbus.codecs import Codecs
from feedbus.errors import InvalidBody, TopologyError, UsageError
from feedbus.records.raw_payload import BODY, RAW
from feedbus.testing import TestSystem

HANDLERS = """
import csv, io
from dataclasses import dataclass
from feedbus import Bus, Raw, Records, handler

SEEN = []

@dataclass
class Row:
    id: int
    product: str

class CsvCodec:
    def decode(self, body, content_type, headers):
        if body == b"down":
            from feedbus import Outage
            raise Outage("no decoder")
        if body == b"list":
            return [1]
        number, product = body.decode().split(",")
        return {"id": int(number), "product": product}

    def encode(self, payload):
        if isinstance(payload, bytes):
            return payload
        if isinstance(payload, str):
            return 7
        return f"{payload['id']},{payload['product']}".encode()

@handler
def texts(text: str):
    SEEN.append(text)

@handler
def many(texts: bytes, bus: Bus):
    SEEN.append(texts)
    bus.publish("texts", Raw("from bytes"))
    bus.publish("raw", Raw(texts))

@handler(batch=True)
def rows(rows: Records[Row]):
    SEEN.extend(rows)

def not_a_codec():
    pass
"""

TOPOLOGY = """
name = "foreign"
[codecs]
"text/csv" = "foreign_handlers:CsvCodec"
[exchanges]
texts = { type = "fanout", content_type = "text/plain; charset=utf-8" }
bytes = { type = "fanout", content_type = "application/octet-stream" }
rows  = { type = "fanout", content_type = "text/csv" }
raw   = { type = "fanout", content_type = "application/octet-stream" }
json  = { type = "fanout" }
[queues.texts]
exchange = "texts"
handler = "foreign_handlers:texts"
[queues.bytes]
exchange = "bytes"
handler = "foreign_handlers:many"
[queues.rows]
exchange = "rows"
handler = "foreign_handlers:rows"
batch = { size = 10 }
[queues.raw]
exchange = "raw"
handler = "foreign_handlers:texts"
[queues.json]
exchange = "json"
handler = "foreign_handlers:rows"
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Any]:
    """Return the folder of a project whose handlers record their messages."""
    (tmp_path / "foreign_handlers.py").write_text(HANDLERS)
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("foreign_handlers", None)


@pytest.fixture
def system(project) -> Iterator[TestSystem]:
    with TestSystem(project / "topology.toml") as system:
        yield system


def seen() -> list[Any]:
    found: list[Any] = sys.modules["foreign_handlers"].SEEN
    return found


def test_text_and_bytes_travel_as_they_are(system) -> None:
    system.publish("texts", Raw("grüße"))
    system.publish("bytes", Raw(b"\xff\x00"))
    system.run()
    assert seen() == ["grüße", b"\xff\x00", "from bytes"]
    (letter,) = system.dead_letters()
    text = (
        "not UTF-8: invalid start byte at byte 0; the message has content type"
        " application/octet-stream: a codec in [codecs] can read it"
    )
    assert letter.errors == {"": [text]}
    assert (letter.body, letter.content_type) == (b"\xff\x00", "application/octet-stream")
    assert [each.payload for each in system.published("raw")] == [b"\xff\x00"]


FOREIGN: dict[str, tuple[Any, ...]] = {
    "content type application/x-python-serialize, content encoding binary": (
        pickle.dumps({"id": 7}), "application/x-python-serialize", "binary", {},
    ),
    "compression application/x-gzip": (
        gzip.compress(b'{"id": 7}'), "application/json", "utf-8",
        {"compression": "application/x-gzip"},
    ),
    "content encoding gzip": (gzip.compress(b'{"id": 7}'), "application/json", "gzip", {}),
}  # fmt: skip


@pytest.mark.parametrize("named", FOREIGN)
def test_the_error_about_an_unreadable_body_names_its_format(named: str) -> None:
    body, content_type, content_encoding, headers = FOREIGN[named]
    reading: Any = {"content_encoding": content_encoding, "headers": headers}
    with pytest.raises(InvalidBody) as caught:
        Codecs({}).read(body, content_type, "1", "", **reading)
    (text,) = caught.value.errors[""]
    assert text.startswith("not UTF-8: invalid start byte at byte ")
    assert text.endswith(f"; the message has {named}: a codec in [codecs] can read it")


def test_a_codec_writes_and_reads_what_a_message_type_validates(system) -> None:
    system.publish("rows", {"id": 7, "product": "chair"})
    system.publish("rows", Raw(b"8,table"))
    system.publish("rows", Raw(b"x,table"))
    system.publish("rows", Raw(b"list"))
    system.run()
    assert [(row.id, row.product) for row in seen()] == [(7, "chair"), (8, "table")]
    refused, wrong = system.dead_letters()
    assert refused.errors[""][0].startswith("CsvCodec.decode raised ValueError: invalid literal")
    assert wrong.errors == {"": ["CsvCodec.decode returned list: expected a mapping, str or bytes"]}
    assert refused.body == b"x,table"


def test_json_is_still_json_beside_codecs(system) -> None:
    system.publish("json", {"id": 7, "product": "chair"})
    system.run()
    assert [row.id for row in seen()] == [7]


def test_what_a_content_type_cannot_carry_is_refused(system) -> None:
    with pytest.raises(UsageError, match=r"set content_type in \[exchanges.json\]"):
        system.publish("json", Raw("text"))
    with pytest.raises(UsageError, match=r"for text/plain expected Raw\('…'\).*, got a mapping"):
        system.publish("texts", {"id": 1})
    with pytest.raises(UsageError, match=r"CsvCodec.encode raised KeyError: 'product'"):
        system.publish("rows", {"id": 1})
    with pytest.raises(UsageError, match=r"CsvCodec.encode returned int: expected bytes"):
        system.publish("rows", Raw("text"))
    with pytest.raises(TypeError, match=r"value: expected str or bytes, got 7 of type int"):
        Raw(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"payload: expected a mapping.*; write Raw"):
        system.publish("texts", "text")


@pytest.mark.parametrize("exchange", ["texts", "bytes", "rows"])
@pytest.mark.parametrize("field", [RAW, BODY])
@pytest.mark.parametrize(
    "value", [5, -1, 1.5, True, None, [1, 2], {}, {"base64": 1}, {"base64": "a"}, {"base64": "é"}]
)
def test_a_field_with_a_reserved_name_is_refused(
    system, exchange: str, field: str, value: object
) -> None:
    with pytest.raises(UsageError, match=f"the field '{field}' is reserved"):
        system.publish(exchange, {field: value})
    with pytest.raises(UsageError, match=f"the field '{RAW}' is reserved"):
        system.publish(exchange, {RAW: "text", "id": value})


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            ":CsvCodec",
            ":CsvCodek",
            "[codecs] \"text/csv\": the module foreign_handlers has no 'CsvCodek'",
        ),
        (
            ":CsvCodec",
            ":not_a_codec",
            ") is not a codec, but a function: expected a class, or an object, with decode(",
        ),
        ('"text/csv" =', '"csv" =', "expected a content type such as"),
        ('content_type = "text/csv"', 'content_type = "a/b"', "a codec for 'a/b' in [codecs]"),
        (
            'content_type = "text/csv"',
            'pack = 9, content_type = "text/csv"',
            "[exchanges] rows.content_type: cannot be combined with pack",
        ),
    ],
)
def test_a_wrong_codec_is_a_problem_with_its_place(project, old, new, problem) -> None:
    path = project / "topology.toml"
    path.write_text(TOPOLOGY.replace(old, new))
    with pytest.raises(TopologyError) as caught:
        config.load(path, import_handlers=True)
    found = [str(each) for each in caught.value.problems]
    assert any(problem in text for text in found), found


def test_a_text_goes_through_the_outbox(project) -> None:
    path = project / "topology.toml"
    stored = TOPOLOGY + '[store]\nurl = "sqlite:///store.db"\n'
    once = 'handler = "foreign_handlers:many"\n'
    path.write_text(stored.replace(once, f"{once}once = true\n"))
    with TestSystem(path) as system:
        system.publish("bytes", Raw(b"hello"))
        system.run()
        assert seen() == [b"hello", "from bytes", "hello"]
