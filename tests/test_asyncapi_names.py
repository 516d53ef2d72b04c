"""feedbus asyncapi: a name never stands for two messages or two schemas."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner
from marshmallow import Schema, fields

from feedbus.cli import main
from feedbus.handling.message_types.marshmallow_json_schema import json_schema

HEAD = 'name = "shop"\n[broker]\nurl = "sqlite:///broker.db"\n'
EXCHANGE = '[exchanges.{0}]\ntype = "fanout"\n[queues.{0}]\nexchange = "{0}"\n'
MODULE = """
from dataclasses import dataclass
from feedbus import handler

{types}

@handler
def handle(record: {name}) -> None: ...
"""
MODULES = (f"asyncapi_names_{number}" for number in itertools.count())

# Writes a module from the definitions of its types and the name of the type that its handler gets;
# returns the name of the handler.
Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    written = []

    def module(types: str, name: str) -> str:
        written.append(next(MODULES))
        (tmp_path / f"{written[-1]}.py").write_text(MODULE.format(types=types, name=name))
        return f"{written[-1]}:handle"

    yield module
    for each in written:
        sys.modules.pop(each, None)
    sys.path.remove(str(tmp_path))


def document_of(folder: Path, *queues: str) -> dict[str, Any]:
    (folder / "topology.toml").write_text(HEAD + "".join(queues))
    topology = str(folder / "topology.toml")
    result = CliRunner().invoke(main, ["--topology", topology, "asyncapi", "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def queue(name: str, handler: str) -> str:
    return EXCHANGE.format(name) + f'handler = "{handler}"\n'


def accepted(document: dict[str, Any], queue: str, payload: object) -> list[str]:
    """Return the messages of a queue whose schemas accept a payload."""
    names = document["channels"][f"queue.{queue}"]["messages"]
    components = document["components"]
    return [
        name
        for name in names
        if jsonschema_rs.is_valid(
            {**components["messages"][name]["payload"], "components": components}, payload
        )
    ]


def order_with(field: str) -> str:
    return f"@dataclass\nclass Order:\n    {field}: int\n"


def test_each_of_many_types_of_one_name_in_a_queue_has_a_message(
    tmp_path: Path, write: Write
) -> None:
    handlers = {name: write(order_with(name), "Order") for name in ("a", "b", "c", "d")}
    by_type = ", ".join(f'"{name}" = "{handler}"' for name, handler in handlers.items())
    found = document_of(tmp_path, EXCHANGE.format("mail"), f"handlers_by_type = {{ {by_type} }}\n")
    names = ["Order", "mail.Order", "mail.Order.2", "mail.Order.3"]
    assert list(found["components"]["messages"]) == names
    for field, name in zip(handlers, names, strict=True):
        assert accepted(found, "mail", {field: 1}) == [name]


def test_types_that_differ_only_in_a_nested_type_have_different_messages(
    tmp_path: Path, write: Write
) -> None:
    nested = "@dataclass\nclass Line:\n    {}: int\n@dataclass\nclass Order:\n    line: Line\n"
    first, second = (write(nested.format(each), "Order") for each in ("a", "b"))
    found = document_of(tmp_path, queue("first", first), queue("second", second))
    assert accepted(found, "first", {"line": {"a": 1}}) == ["Order"]
    assert accepted(found, "second", {"line": {"b": 1}}) == ["second.Order"]
    assert not accepted(found, "second", {"line": {"a": 1}})


def test_a_message_does_not_replace_a_nested_type_of_another_one(
    tmp_path: Path, write: Write
) -> None:
    line = "@dataclass\nclass Line:\n    {}: int\n"
    order = line.format("a") + "@dataclass\nclass Order:\n    line: Line\n"
    found = document_of(
        tmp_path,
        queue("first", write(order, "Order")),  # its schemas are "Order" and "Order.Line"
        queue("second", write(line.format("b"), "Line")),
        queue("Order", write(line.format("c"), "Line")),
    )
    assert accepted(found, "first", {"line": {"a": 1}}) == ["Order"]
    assert accepted(found, "second", {"b": 1}) == ["Line"]
    assert accepted(found, "Order", {"c": 1}) == ["Order.Line.2"]


def schema_named_line(**declared: fields.Field[Any]) -> Schema:
    found: type[Schema] = type("Line", (Schema,), declared)
    return found()


class Node(Schema):
    name = fields.String(required=True)
    children = fields.Nested(lambda: Node(many=True))


class Outer(Schema):
    node = fields.Nested(Node)


class Parent(Schema):
    """Nested schemas of one name, and of one class with other fields."""

    first = fields.Nested(schema_named_line(a=fields.Integer(required=True)))
    second = fields.Nested(schema_named_line(b=fields.Integer(required=True)))
    tree = fields.Nested(Node)
    leaf = fields.Nested(Outer(only=["node.name"]))
    roots = fields.Nested(Outer(only=["node.children"]))


@pytest.mark.parametrize(
    ("payload", "valid"),
    [
        ({"first": {"a": 1}, "second": {"b": 1}}, True),
        ({"second": {"a": 1}}, False),
        ({"tree": {"name": "a", "children": [{"name": "b", "children": []}]}}, True),
        ({"tree": {"name": "a", "children": [{"name": 1}]}}, False),
        ({"leaf": {"node": {"name": "a"}}, "roots": {"node": {"children": []}}}, True),
        ({"leaf": {"node": {"name": "a", "children": []}}}, False),
        ({"roots": {"node": {"name": "a"}}}, False),
    ],
)
def test_nested_marshmallow_schemas_of_one_name_are_described_each_on_its_own(
    payload: dict[str, Any], valid: bool
) -> None:
    assert jsonschema_rs.is_valid(json_schema(Parent()), payload) == valid
