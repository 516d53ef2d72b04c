"""The errors of a record that its message type reports, by field, and only for this record."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest
from marshmallow import EXCLUDE, Schema, fields

from feedbus import Records
from feedbus.handling.message_types import loader_of
from feedbus.records.ids import Ids
from feedbus.records.packs import Pack, pack_of_one
from tests.types_to_load import Checked, Model, Order, Struct, Typed

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
    assert loader_of(declared).load(pack_of_one("m", "k", payload)).errors == {0: errors}


def test_what_is_wrong_within_a_field_is_located_in_it() -> None:
    pack = pack_of_one("m", "k", {"id": 7, "product": "chair", "tags": ["a", 3]})
    found = loader_of(Order).load(pack)
    assert found.errors == {0: {"tags": ["[1]: expected str, got int"]}}
    found = loader_of(Model).load(pack)
    assert found.errors == {0: {"tags": ["1: Input should be a valid string"]}}


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_rule_over_a_whole_record_raises_is_an_error_of_the_record(count: int) -> None:
    pack = Pack(Ids("o", range(count)), ["k"] * count, {"id": 1, "product": ""}, {})
    assert loader_of(Checked).load(pack).errors[0] == {"": ["a product is needed"]}


def test_a_validator_that_raises_anything_makes_its_record_invalid_alone() -> None:
    class Raising(msgspec.Struct):
        id: int

        def __post_init__(self) -> None:
            if self.id == 2:
                raise KeyError(self.id)

    pack = Pack(Ids("o", range(3)), ["k"] * 3, {}, {"id": [1, 2, 3]})
    found = loader_of(Raising).load(pack)
    assert found.errors == {1: {"": ["KeyError: 2"]}}
    assert [row.id for row in Records([found.chunk])] == [1, 3]


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


@dataclasses.dataclass
class Part:
    size: Size


class Step(msgspec.Struct, tag="step"):
    step: Literal["done", "new"]
    size: Size | None = None
    numbers: list[Literal[1, 2]] = []
    parts: dict[str, Part] = {}
    letter: Literal[tuple("abcdefghijkl")] = "a"  # type: ignore[valid-type]


class Other(msgspec.Struct, tag="other"):
    step: Literal["lost"]


def test_an_invalid_value_of_an_enum_is_named_with_the_allowed_values() -> None:
    wrong = {"size": "m", "numbers": [1, 3], "parts": {"a": {"size": "x"}}, "letter": "z"}
    found = loader_of(Step).load(pack_of_one("m", "k", {"type": "step", "step": "gone", **wrong}))
    invalid, expected = "invalid enum value", "expected one of"
    assert found.errors[0] == {
        "step": [f"{invalid} 'gone': {expected} 'done', 'new'"],
        "size": [f"{invalid} 'm': {expected} 's', 'l'"],
        "numbers": [f"[1]: {invalid} 3: {expected} 1, 2"],
        "parts": [f"[...].size: {invalid} 'x': {expected} 's', 'l'"],
        "letter": [
            f"{invalid} 'z': {expected} {', '.join(map(repr, 'abcdefghij'))} and 2 more",
        ],
    }
    found = loader_of(Step | Other).load(pack_of_one("m", "k", {"type": "other", "step": "gone"}))
    assert found.errors[0]["step"][0].startswith(f"{invalid} 'gone': {expected} ")


class StepSchema(Schema):
    step = fields.String(required=True)

    class Meta:
        unknown = EXCLUDE


class StepModel(pydantic.BaseModel):
    step: str


@pytest.mark.parametrize("declared", [Step, StepSchema, StepModel])
def test_a_misspelt_field_is_named_in_the_error_of_the_missing_field(declared: Any) -> None:
    shared = {"type": "step", "stp": "new", "other": 1}
    found = loader_of(declared).load(Pack(Ids("o", range(2)), ["k"] * 2, shared, {}))
    for row in range(2):
        suggestion = "(got the unknown field 'stp': did you mean 'step'?)"
        assert found.errors[row]["step"][1:] == [suggestion]
    found = loader_of(declared).load(pack_of_one("m", "k", {"type": "step", "other": 1}))
    assert len(found.errors[0]["step"]) == 1


SILENT = "SilentError, whose text raised KeyError"


class SilentError(Exception):
    """An exception whose text cannot be read."""

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
    assert loader_of(declared).load(pack).errors == errors
    single_records = [
        loader_of(declared).load(pack_of_one("m", "k", pack.payload(row))).errors.get(0)
        for row in range(2)
    ]
    assert single_records == [errors.get(0), errors.get(1)]
