"""Message types of each kind, and functions that load one record of each without feedbus."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
import pydantic
from marshmallow import Schema, fields, post_load

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
