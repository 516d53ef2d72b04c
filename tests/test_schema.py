"""feedbus schema: the description of topology.toml is correct."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest
from click.testing import CliRunner

from feedbus.cli import main
from tests.pages import blocks

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs/reference/topology.md"


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["schema", *arguments])
    assert result.exit_code == 0
    return result.stdout


def test_the_schema_beside_the_topology_is_current():
    current = printed()
    assert (PROJECT / "topology.schema.json").read_text() == current, (
        "feedbus schema > topology.schema.json"
    )


def test_the_wrong_file_of_the_reference_has_the_problems_that_the_page_shows(tmp_path):
    wrong, problems = [block.text for block in blocks(PAGE) if "ampq" in block.text]
    (tmp_path / "topology.toml").write_text(wrong)
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path) + os.pathsep + str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert problems == done.stdout


def described(schema, path=""):
    """Return each property, entry and item of a schema by its path."""
    for name, option in schema.get("properties", {}).items():
        yield f"{path}.{name}", option
        yield from described(option, f"{path}.{name}")
    for key in ("additionalProperties", "items"):
        if isinstance(schema.get(key), dict):
            yield f"{path}.{key}", schema[key]
            yield from described(schema[key], f"{path}.{key}")


DESCRIBED = dict(described(json.loads(printed())))


def test_every_option_has_a_type_and_a_description_that_an_editor_can_show():
    wrong = [
        path
        for path, option in DESCRIBED.items()
        if "type" not in option
        or not option["description"].endswith(".")
        or "](" in option["description"]  # editors do not find the pages of the documentation
    ]
    assert len(DESCRIBED) > 100
    assert wrong == []


def test_every_option_has_a_default_or_an_example_or_a_list_of_its_values():
    missing = [
        path
        for path, option in DESCRIBED.items()
        if not {"default", "examples", "properties"} & option.keys()
        and option["type"] != "boolean"
        and "enum" not in json.dumps(option.get("anyOf", []))
        and "properties" not in option.get("additionalProperties", {})
        and not path.endswith((".additionalProperties", ".items"))
    ]
    assert missing == []


def test_defaults_and_examples_are_values_that_the_schema_accepts():
    for option in DESCRIBED.values():
        values = option.get("examples", [])
        for value in [*values, option["default"]] if "default" in option else values:
            jsonschema_rs.validate(option, value)


def test_the_schema_takes_the_projects_own_topology():
    topology = tomllib.loads((PROJECT / "topology.toml").read_text())
    jsonschema_rs.validate(json.loads(printed()), topology)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("brokr",), {}),
        (("exchanges", "feed", "type"), "hash"),
        (("queues", "feed", "shards"), 0),
        (("queues", "feed", "batch"), {"size": "many"}),
        (("queues", "feed", "idle_timeout"), "soon"),
        (("queues", "feed", "retry"), {"delays": []}),
        (("queues", "feed", "prefech"), 5),
        (("broker", "url"), "http://x"),
    ],
    ids=lambda part: ".".join(part) if isinstance(part, tuple) else None,
)
def test_the_schema_refuses_what_check_refuses(path, value):
    topology = {
        "name": "shop",
        "broker": {},
        "exchanges": {"feed": {"type": "x-consistent-hash"}},
        "queues": {"feed": {"exchange": "feed", "handler": "a:b"}},
    }
    schema = json.loads(printed())
    jsonschema_rs.validate(schema, topology)
    place = topology
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, topology)
