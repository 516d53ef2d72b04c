"""Message types: each loads the records of packs and of single messages."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from feedbus import Records
from feedbus.handling.message_types import loader_of
from feedbus.records.packs import Pack, pack_of_one
from tests.any_packs import packs
from tests.types_to_load import (
    ONE_BY_ONE,
    Changed,
    Created,
    MadeSchema,
    StrictModel,
    Struct,
)

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.just(10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "chair", "created", "changed", "7"]),
    st.lists(st.one_of(st.integers(0, 1), st.just("a")), max_size=2),
)
NAMES = st.sampled_from(["id", "product", "tags", "note", "type", "unitPrice", "stranger"])


@settings(max_examples=300)
@given(packs(NAMES, VALUES), st.sampled_from(list(ONE_BY_ONE)))
def test_loading_a_pack_is_loading_its_records_one_by_one(pack: Pack, declared: Any) -> None:
    rows, invalid = {}, set()
    for index, name in enumerate(pack.ids):
        try:
            rows[name] = ONE_BY_ONE[declared](pack.payload(index))
        except (ValueError, ValidationError):
            invalid.add(index)
    found = loader_of(declared).load(pack)
    assert {name: found.chunk.row(i) for i, name in enumerate(found.chunk.ids)} == rows
    assert set(found.errors) == invalid
    assert all(texts for errors in found.errors.values() for texts in errors.values())
    assert list(found.chunk.rows) == [i for i in range(len(pack)) if i not in invalid]
    records: Records[Any] = Records([found.chunk])
    for name in ("id", "product") if declared is not dict and rows else ():
        wanted = [_field(row, name) for row in rows.values()]
        if None not in wanted:
            assert records.column(name) == wanted


def _field(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, dict) else getattr(row, name, None)


@pytest.mark.parametrize("declared", ONE_BY_ONE, ids=lambda each: str(each)[-24:])
def test_records_of_each_type_are_read_chosen_and_grouped(declared: Any) -> None:
    payloads = [
        {"id": 7, "product": "chair", "type": "changed"},
        {"id": 8, "product": "table", "type": "changed"},
    ]
    if declared in {Struct, StrictModel, MadeSchema}:
        for payload in payloads:
            del payload["type"]
    chunks = [loader_of(declared).load(pack_of_one(str(p["id"]), "k", p)).chunk for p in payloads]
    records: Records[Any] = Records(chunks)
    if declared == Created | Changed:
        assert records.column("id") == [7, 8]
        return
    assert records.column("product") == ["chair", "table"]
    (key, group), _ = records.group_by("product").items()
    assert key == "chair"
    assert _field(group.first, "id") == 7
    assert [_field(row, "product") for row in records.where("id", {8})] == ["table"]


def test_values_beyond_json_are_made_of_their_texts() -> None:
    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Rich:
        at: datetime
        price: Decimal
        key: uuid.UUID
        colour: Colour
        raw: bytes
        sizes: dict[int, str]

    key = uuid.uuid4()
    payload = {
        "at": "2026-11-24T22:15:57Z",
        "price": "1.10",
        "key": str(key),
        "colour": "red",
        "raw": "aGk=",
        "sizes": {"1": "one"},
    }
    # As annotations of a local class cannot be evaluated by name, they are given as objects.
    Rich.__annotations__ = {
        "at": datetime,
        "price": Decimal,
        "key": uuid.UUID,
        "colour": Colour,
        "raw": bytes,
        "sizes": dict[int, str],
    }
    (row,) = Records([loader_of(Rich).load(pack_of_one("m", "k", payload)).chunk])
    assert row == Rich(
        datetime(2026, 11, 24, 22, 15, 57, tzinfo=UTC),
        Decimal("1.10"),
        key,
        Colour.RED,
        b"hi",
        {1: "one"},
    )


@dataclasses.dataclass
class Node:
    id: int
    children: list[Node] = dataclasses.field(default_factory=list)


class NodeModel(pydantic.BaseModel):
    id: int
    children: list[NodeModel] = []


@pytest.mark.parametrize("declared", [Node, NodeModel])
def test_a_type_may_contain_itself_and_a_number_may_be_huge(declared: Any) -> None:
    payload: dict[str, Any] = {"id": 10**400}
    for _ in range(90):
        payload = {"id": 1, "children": [payload]}
    (row,) = Records([loader_of(declared).load(pack_of_one("m", "k", payload)).chunk])
    while row.children:
        (row,) = row.children
    assert row.id == 10**400
