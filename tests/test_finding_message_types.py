"""The message type of a handler: found by its annotation, or refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pydantic
import pytest
from marshmallow import Schema, fields

from feedbus import Records, handler
from feedbus.handling.annotations import Unfit
from feedbus.handling.handlers import MARK
from feedbus.handling.message_types import UnfitMessageType, loader_of
from feedbus.records.packs import pack_of_one


@dataclasses.dataclass
class Order:
    id: int
    product: str


@dataclasses.dataclass
class Receipt:
    id: int


class Custom:
    pass


class OutagePause(msgspec.Struct):
    items: list[Custom]


class Nesting(Schema):
    inner = fields.List(fields.Nested("Nowhere"))


class NestingDeep(Schema):
    self_again = fields.Nested(lambda: NestingDeep(exclude=("self_again",)))
    by_name = fields.Dict(values=fields.Tuple([fields.Nested(Nesting)]))


class OfArguments(Schema):
    def __init__(self, name: str) -> None:
        super().__init__(only=[name])


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (OfArguments, "without arguments, got OfArguments: TypeError: .*'name'"),
        (Nesting, "exist and can be created, got Nesting with the field 'inner': .*Nowhere"),
        (NestingDeep, "got Nesting with the field 'inner': .*Nowhere"),
        (Custom, "got Custom"),
        (int, "got int"),
        (list[int], "got list"),
        (int | str, r"got int \| str"),
        (OutagePause, "Custom.* of the field 'items'"),
        (Order | Receipt, "more than one"),
        (Schema(), r"write @handler\(Schema\), the class"),
        ("Order", "got 'Order'"),
    ],
    ids=str,
)
def test_what_is_no_message_type_is_refused(declared: Any, reason: str) -> None:
    with pytest.raises(UnfitMessageType, match=reason):
        loader_of(declared)


class Unfinished(pydantic.BaseModel):
    other: Nowhere  # noqa: F821 -- its point


@dataclasses.dataclass
class UnfinishedOrder:
    other: Nowhere  # noqa: F821 -- its point


@pytest.mark.parametrize("declared", [Unfinished, UnfinishedOrder])
def test_a_class_whose_annotations_cannot_be_evaluated_is_refused(declared: Any) -> None:
    with pytest.raises(UnfitMessageType, match=rf"{declared.__name__}.*Nowhere"):
        loader_of(declared)


def of_an_order(order: Order) -> None:
    """Take an order."""


def of_orders(orders: Records[Order]) -> None:
    """Take orders."""


def of_anything(message, bus) -> None:
    """Take whatever comes."""


def of_nowhere(order: Nowhere) -> None:  # noqa: F821 -- its point
    """Cannot be evaluated."""


def of_a_list(orders: list[Order]) -> None:
    """No Records."""


def test_the_annotation_says_the_type() -> None:
    payload = {"id": 7, "product": "chair"}
    pack = pack_of_one("m", "k", payload)
    marked = [handler(of_an_order), handler()(of_an_order), handler(batch=True)(of_orders)]
    for function in marked:
        found = getattr(function, MARK).record_loader().load(pack)
        assert found.chunk.row(0) == Order(7, "chair")
    anything = getattr(handler(of_anything), MARK).record_loader().load(pack)
    assert anything.chunk.row(0) == payload


@pytest.mark.parametrize(
    ("function", "batch", "reason"),
    [
        (of_nowhere, False, "Nowhere.*cannot be evaluated"),
        (of_orders, False, r"write @handler\(batch=True\)"),
        (of_a_list, True, r"write Records\[Order\]"),
        (of_a_list, False, "takes list"),
    ],
)
def test_an_annotation_that_is_no_message_type_is_named(function, batch, reason) -> None:
    marked = getattr(handler(batch=batch)(function), MARK)
    with pytest.raises(Unfit, match=rf"\({__file__}:\d+\).*{reason}"):
        marked.record_loader()
