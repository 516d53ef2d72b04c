"""feedbus check reports schedules whose messages no handler accepts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from feedbus import config
from tests.topologies import problems_of, write

APP = """\
from dataclasses import dataclass
from marshmallow import Schema, fields
from pydantic import BaseModel
from feedbus import handler

@dataclass
class Count:
    shelves: list[int]

class CountModel(BaseModel):
    shelves: list[int]

class CountSchema(Schema):
    shelves = fields.List(fields.Int(strict=True), required=True)

@handler
def typed(count: Count) -> None: ...

@handler
def model(count: CountModel) -> None: ...

@handler(CountSchema)
def schema(count: dict) -> None: ...

@handler
def anything(count: dict) -> None: ...

@handler
def text(count: str) -> None: ...
"""
TOPOLOGY = """\
name = "stock"
[exchanges]
stock = { type = "topic" }
[queues.count]
exchange = "stock"
routing_keys = ["count.#"]
handler = "app_of_schedules:typed"
[schedules.nightly]
cron = "30 2 * * *"
exchange = "stock"
key = "count.all"
payload = { shelves = [1, 2] }
"""
HANDLER = 'handler = "app_of_schedules:typed"'
PAYLOAD = "payload = { shelves = [1, 2] }\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app_of_schedules.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "app_of_schedules", raising=False)
    return tmp_path


def reported(folder: Path, text: str) -> list[str]:
    path = write(folder, text)
    found = problems_of(path, import_handlers=True)
    return [str(each).removeprefix(f"{path}:") for each in found]


@pytest.mark.parametrize("function", ["typed", "model", "schema", "anything", "text"])
def test_a_payload_that_the_handler_accepts_is_no_problem(project, function):
    path = write(project, TOPOLOGY.replace(":typed", f":{function}"))
    assert config.load(path, environ={}, import_handlers=True).schedules


@pytest.mark.parametrize("function", ["typed", "model", "schema"])
def test_a_payload_that_the_message_type_refuses_is_a_problem(project, function):
    (wrong,) = reported(
        project, TOPOLOGY.replace(":typed", f":{function}").replace("[1, 2]", '["a"]')
    )
    assert wrong.startswith(f"12:11: [schedules.nightly] payload: {function} (app_of_schedules.py:")
    assert "takes Count" in wrong
    assert "and the payload is not valid: shelves: " in wrong


def test_a_missing_payload_is_a_problem_if_a_field_is_required(project):
    (missing,) = reported(project, TOPOLOGY.replace(PAYLOAD, ""))
    assert missing.startswith("8:1: [schedules.nightly] payload: typed (app_of_schedules.py:")
    assert missing.endswith("shelves: missing required field")


def test_a_key_or_a_type_without_a_handler_is_a_problem(project):
    by_key = 'handlers = { "count.one" = "app_of_schedules:typed" }'
    assert reported(project, TOPOLOGY.replace(HANDLER, by_key)) == [
        (
            "11:7: [schedules.nightly] key: the queue 'count' has no handler: expected a routing"
            " key like count.one, got 'count.all'"
        )
    ]
    by_type = 'handlers_by_type = { count = "app_of_schedules:typed" }'
    assert reported(project, TOPOLOGY.replace(HANDLER, by_type)) == [
        (
            "10:12: [schedules.nightly] exchange: the queue 'count' has no handler: expected a"
            " message type of count, got no type"
        )
    ]


def test_a_payload_without_the_field_of_the_order_is_a_problem(project):
    ordered = 'handler = "app_of_schedules:anything"\norder_by = "shop"'
    assert reported(project, TOPOLOGY.replace(HANDLER, ordered)) == [
        (
            "13:11: [schedules.nightly] payload: expected the field 'shop', because the queue"
            " 'count' is ordered by it"
        )
    ]


def test_a_payload_is_not_checked_if_several_queues_share_a_ring_or_a_codec_writes_it(project):
    second = f'[queues.recount]\nexchange = "stock"\n{HANDLER}\n'
    wrong = TOPOLOGY.replace("[1, 2]", '["a"]').replace('routing_keys = ["count.#"]\n', "")
    ring = wrong.replace('"topic"', '"x-consistent-hash"')
    assert "payload: typed" in reported(project, ring)[0]
    assert config.load(write(project, ring + second), environ={}, import_handlers=True)
    codec = TOPOLOGY.replace("[1, 2]", '["a"]').replace(
        '"topic" }', '"topic", content_type = "application/x+json" }'
    )
    assert config.load(write(project, codec), environ={}, import_handlers=True)
