"""Message types: each loads records and finds what is wrong with each."""

from __future__ import annotations

import dataclasses
import enum
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError, fields, post_load

from feedbus import Records
from feedbus.handling.message_types import message_type_of
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, single
from feedbus.records.payloads import encode_payload

Positive = Annotated[int, msgspec.Meta(ge=1)]


@dataclasses.dataclass
class Order:
    id: Positive
    product: str
    tags: list[str] = dataclasses.field(default_factory=list)
    note: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    id: int
    product: str
    note: str | None = None


@dataclasses.dataclass
class Checked:
    id: int
    product: str = ""

    def __post_init__(self) -> None:
        if self.product == "":
            msg = "a product is needed"
            raise ValueError(msg)


class Struct(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    id: int
    product: str
    unit_price: float = 1.0
    tags: list[str] = []


class Created(msgspec.Struct, tag="created"):
    id: int


class Changed(msgspec.Struct, tag="changed"):
    id: int
    product: str


class Typed(TypedDict):
    id: int
    product: NotRequired[str]


class Model(pydantic.BaseModel):
    id: int = pydantic.Field(ge=1)
    product: str
    unit_price: float = pydantic.Field(1.0, alias="unitPrice")
    tags: list[str] = []


class StrictModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="forbid")
    id: int
    product: str
    at: datetime | None = None


@pydantic.dataclasses.dataclass
class ModelClass:
    id: int
    product: str


class MadeSchema(Schema):
    id = fields.Integer(strict=True, required=True)
    product = fields.String(required=True)

    @post_load
    def make(self, data: dict[str, Any], **_: object) -> Frozen:
        return Frozen(**data)


def by_msgspec(declared: Any):
    def load(payload: Mapping[str, Any]) -> Any:
        return msgspec.convert(payload, declared, str_keys=True)

    return load


def by_pydantic(declared: Any):
    adapter = pydantic.TypeAdapter(declared)
    return lambda payload: adapter.validate_json(encode_payload(payload))


ONE_BY_ONE = {
    Order: by_msgspec(Order),
    Frozen: by_msgspec(Frozen),
    Checked: by_msgspec(Checked),
    Struct: by_msgspec(Struct),
    Created | Changed: by_msgspec(Created | Changed),
    Typed: by_msgspec(Typed),
    Model: by_pydantic(Model),
    StrictModel: by_pydantic(StrictModel),
    ModelClass: by_pydantic(ModelClass),
    MadeSchema: MadeSchema().load,
    dict: dict,
}
TYPES = pytest.mark.parametrize("declared", ONE_BY_ONE, ids=lambda each: str(each)[-24:])
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.just(10**30),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "chair", "created", "changed", "7"]),
    st.lists(st.one_of(st.integers(0, 1), st.just("a")), max_size=2),
)
names = st.sampled_from(["id", "product", "tags", "note", "type", "unitPrice", "stranger"])


@st.composite
def packs(draw: st.DrawFn) -> Pack:
    """Any records with like fields, some of them shared."""
    count = draw(st.integers(1, 4))
    shared = draw(st.dictionaries(names, values, max_size=4))
    columns = draw(
        st.dictionaries(
            names.filter(lambda name: name not in shared),
            st.lists(values, min_size=count, max_size=count),
            max_size=4,
        )
    )
    return Pack(Ids("o", list(range(count))), ["k"] * count, shared, columns)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(packs(), st.sampled_from(list(ONE_BY_ONE)))
def test_loading_a_pack_is_loading_its_records_one_by_one(pack: Pack, declared: Any) -> None:
    rows, invalid = {}, set()
    for index, name in enumerate(pack.ids):
        try:
            rows[name] = ONE_BY_ONE[declared](pack.payload(index))
        except (ValueError, ValidationError):
            invalid.add(index)
    found = message_type_of(declared).load(pack)
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


GOOD = {"id": 7, "product": "chair"}


@TYPES
def test_records_of_each_type_are_read_chosen_and_grouped(declared: Any) -> None:
    payloads = [GOOD | {"type": "changed"}, {"id": 8, "product": "table", "type": "changed"}]
    if declared in {Struct, StrictModel, MadeSchema}:
        for payload in payloads:
            del payload["type"]
    chunks = [message_type_of(declared).load(single(str(p["id"]), "k", p)).chunk for p in payloads]
    records: Records[Any] = Records(chunks)
    if declared == Created | Changed:
        assert records.column("id") == [7, 8]
        return
    assert records.column("product") == ["chair", "table"]
    (key, group), _ = records.group_by("product").items()
    assert key == "chair"
    assert _field(group.first, "id") == 7
    assert [_field(row, "product") for row in records.where("id", {8})] == ["table"]


LOCATED = {
    Order: {"id": ["expected int, got str"], "product": ["missing required field"]},
    Struct: {
        "id": ["expected int, got str"],
        "product": ["missing required field"],
        "unitPrice": ["expected float, got str"],
        "stranger": ["unknown field"],
    },
    Typed: {"id": ["expected int, got str"]},
    Model: {
        "id": ["Input should be a valid integer, unable to parse string as an integer"],
        "product": ["Field required"],
        "unitPrice": ["Input should be a valid number, unable to parse string as a number"],
    },
}


@pytest.mark.parametrize(("declared", "errors"), LOCATED.items(), ids=lambda each: str(each)[:30])
def test_every_wrong_field_is_named_as_on_the_wire(declared: Any, errors: Any) -> None:
    payload = {"id": "seven", "unitPrice": "much", "stranger": 1}
    assert message_type_of(declared).load(single("m", "k", payload)).errors == {0: errors}


def test_what_is_wrong_within_a_field_is_located_in_it() -> None:
    found = message_type_of(Order).load(single("m", "k", GOOD | {"tags": ["a", 3]}))
    assert found.errors == {0: {"tags": ["[1]: expected str, got int"]}}
    found = message_type_of(Model).load(single("m", "k", GOOD | {"tags": ["a", 3]}))
    assert found.errors == {0: {"tags": ["1: Input should be a valid string"]}}


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_rule_over_a_whole_record_raises_is_an_error_of_the_record(count: int) -> None:
    pack = Pack(Ids("o", range(count)), ["k"] * count, {"id": 1, "product": ""}, {})
    assert message_type_of(Checked).load(pack).errors[0] == {"": ["a product is needed"]}


def test_a_validator_that_raises_anything_makes_its_record_invalid_alone() -> None:
    class Raising(msgspec.Struct):
        id: int

        def __post_init__(self) -> None:
            if self.id == 2:
                raise KeyError(self.id)

    pack = Pack(Ids("o", range(3)), ["k"] * 3, {}, {"id": [1, 2, 3]})
    found = message_type_of(Raising).load(pack)
    assert found.errors == {1: {"": ["KeyError: 2"]}}
    assert [row.id for row in Records([found.chunk])] == [1, 3]


SILENT = "SilentError, whose text raised KeyError"


class SilentError(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise KeyError


def silent(value: object = None) -> int:
    if value in (None, 2):
        raise SilentError
    return 0


def ending(value: int) -> int:
    if value == 2:
        raise SystemExit
    return value


@dataclasses.dataclass
class Inner:
    a: int

    def __post_init__(self) -> None:
        silent(self.a)


@dataclasses.dataclass
class Outer:
    inner: Inner


@dataclasses.dataclass
class Factory:
    made: int = dataclasses.field(default_factory=silent)


class SilentSchema(Schema):
    n = fields.Integer(validate=silent)


class Exiting(pydantic.BaseModel):
    n: Annotated[int, pydantic.AfterValidator(ending)]


@pytest.mark.parametrize(
    ("declared", "columns", "errors"),
    [
        (Outer, {"inner": [{"a": 1}, {"a": 2}]}, {1: {"inner": [SILENT]}}),
        (Factory, {"n": [1, 2]}, {0: {"made": [SILENT]}, 1: {"made": [SILENT]}}),
        (SilentSchema, {"n": [1, 2]}, {1: {"n": [SILENT]}}),
        (SilentSchema, {"n": ["1", "2"]}, {1: {"n": [SILENT]}}),
        (Exiting, {"n": [1, 2]}, {1: {"": ["SystemExit"]}}),
    ],
)
def test_whatever_code_of_a_message_type_raises_is_an_error_of_its_record(
    declared: Any, columns: Any, errors: Any
) -> None:
    pack = Pack(Ids("o", range(2)), ["k"] * 2, {}, columns)
    assert message_type_of(declared).load(pack).errors == errors
    single_records = [
        message_type_of(declared).load(single("m", "k", pack.payload(row))).errors.get(0)
        for row in range(2)
    ]
    assert single_records == [errors.get(0), errors.get(1)]


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
    (row,) = Records([message_type_of(Rich).load(single("m", "k", payload)).chunk])
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
    (row,) = Records([message_type_of(declared).load(single("m", "k", payload)).chunk])
    while row.children:
        (row,) = row.children
    assert row.id == 10**400
