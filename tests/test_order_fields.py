"""The field of `order_by` must be one of the message type's fields on the wire."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from marshmallow import EXCLUDE, INCLUDE, Schema, fields, pre_load

from feedbus import config
from feedbus.errors import TopologyError
from feedbus.handling.message_types import loader_of

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
[queues.mail]
exchange = "orders"
routing_keys = ["new"]
handler = "app_of_order_fields:mail"
order_by = "ORDER_BY"
"""
APP = """\
from dataclasses import dataclass

import msgspec
from feedbus import handler


@dataclass
class Order:
    id: int
    customer: str


class Renamed(msgspec.Struct, rename="camel"):
    customer_id: int


@handler
def mail(order: TYPE) -> None: ...
"""


@dataclass
class Plain:
    id: int
    parts: list[str] = field(default_factory=list)


class Camel(msgspec.Struct, rename="camel"):
    customer_id: int
    id: int


class Placed(msgspec.Struct, tag=True, tag_field="kind"):
    id: int
    product: str


class Paid(msgspec.Struct, tag=True, tag_field="kind"):
    id: int
    amount: int


class Row(TypedDict):
    id: int


class Renamed(Schema):
    customer_id = fields.Int(data_key="customerId")
    id = fields.Int()
    total = fields.Int(dump_only=True)


class Tolerant(Schema):
    id = fields.Int()

    class Meta:
        unknown = EXCLUDE


class Open(Schema):
    class Meta:
        unknown = INCLUDE


class Changed(Schema):
    id = fields.Int()

    @pre_load
    def rename(self, data: Any, **_: Any) -> Any:
        return {"id": data["number"]}


class Model(pydantic.BaseModel):
    customer_id: int = pydantic.Field(alias="customerId")
    product: str = pydantic.Field(
        validation_alias=pydantic.AliasChoices("item", pydantic.AliasPath("items", 0))
    )
    id: int


class ByName(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        populate_by_name=True, alias_generator=lambda name: name.upper()
    )
    id: int


class OpenModel(pydantic.BaseModel, extra="allow"):
    id: int


class ChangedModel(pydantic.BaseModel):
    id: int

    @pydantic.model_validator(mode="before")
    @classmethod
    def rename(cls, data: Any) -> Any:
        return {"id": data["number"]}


class ListModel(pydantic.RootModel[dict[str, int]]):
    pass


WIRE_FIELDS = {
    Plain: ["id", "parts"],
    Camel: ["customerId", "id"],
    Placed | Paid: ["kind", "id"],
    Row: ["id"],
    Renamed: ["customerId", "id"],
    Tolerant: ["id"],
    Model: ["customerId", "item", "items", "id"],
    ByName: ["ID", "id"],
    str: [],
    bytes: [],
    # A record of these types can have fields that the type does not name.
    dict: None,
    Open: None,
    Changed: None,
    OpenModel: None,
    ChangedModel: None,
    ListModel: None,
}


@pytest.mark.parametrize("declared", WIRE_FIELDS, ids=str)
def test_a_message_type_knows_the_names_of_its_fields_on_the_wire(declared):
    found = loader_of(declared).wire_fields()
    assert (found if found is None else list(found)) == WIRE_FIELDS[declared]


@pytest.fixture
def problems(tmp_path, monkeypatch):
    """Return a function that checks a field of order_by for a type, and returns the problems."""
    monkeypatch.syspath_prepend(tmp_path)

    def check(order_by: str, kind: str) -> list[str]:
        (tmp_path / "app_of_order_fields.py").write_text(APP.replace("TYPE", kind))
        sys.modules.pop("app_of_order_fields", None)
        path = tmp_path / "topology.toml"
        path.write_text(TOPOLOGY.replace("ORDER_BY", order_by))
        try:
            config.load(path, environ={}, import_handlers=True)
        except TopologyError as error:
            return [str(each).removeprefix(f"{tmp_path}/") for each in error.problems]
        return []

    return check


PLACE = "topology.toml:8:12: [queues.mail] order_by: mail (app_of_order_fields.py:17) takes "
WRONG = {
    ("custmer", "Order"): (
        "Order, which has no field 'custmer' in JSON: expected one of id, customer; did you mean"
        " 'customer'?"
    ),
    ("customer_id", "Renamed"): (
        "Renamed, which has no field 'customer_id' in JSON: expected one of customerId; did you"
        " mean 'customerId'?"
    ),
    ("customer", "str"): (
        "a text or bytes, which has no field 'customer' in JSON: expected true or false"
    ),
}


@pytest.mark.parametrize(("order_by", "kind"), WRONG, ids=str)
def test_a_field_that_messages_do_not_have_is_a_problem_of_order_by(problems, order_by, kind):
    assert problems(order_by, kind) == [PLACE + WRONG[order_by, kind]]


@pytest.mark.parametrize(
    ("order_by", "kind"), [("customer", "Order"), ("customerId", "Renamed"), ("any", "dict")]
)
def test_a_field_that_messages_have_or_may_have_is_none(problems, order_by, kind):
    assert problems(order_by, kind) == []
