"""feedbus schema: what is written down about topology.toml is what is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest
from click.testing import CliRunner

from feedbus.cli import main

PROJECT = Path(__file__).parent.parent
GUIDE = PROJECT / "docs/reference/topology.md"


def printed(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["schema", *arguments])
    assert result.exit_code == 0
    return result.stdout


def between(text: str, begin: str, end: str) -> str:
    return re.search(rf"<!-- {begin}.*? -->\n(.*?)<!-- {end} -->", text, re.DOTALL)[1]


def test_the_schema_beside_the_topology_is_current():
    current = printed()
    assert (PROJECT / "topology.schema.json").read_text() == current, (
        "feedbus schema > topology.schema.json"
    )


def test_the_reference_in_the_guide_is_current():
    told = between(GUIDE.read_text(), "reference: begin", "reference: end")
    assert told == printed("--markdown"), (
        "paste `feedbus schema --markdown` into docs/reference/topology.md"
    )


def test_the_wrong_file_in_the_guide_is_told_what_the_guide_says(tmp_path):
    guide = GUIDE.read_text()
    wrong = between(guide, "example: the file", "example: what it is told")
    told = between(guide, "example: what it is told", "example: end")
    (tmp_path / "topology.toml").write_text(wrong.removeprefix("```toml\n").removesuffix("```\n"))
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", "check"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path) + os.pathsep + str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told == f"```text\n{done.stdout}```\n"


def test_every_option_has_a_description_in_the_schema():
    def walk(schema, path):
        for name, option in schema.get("properties", {}).items():
            assert option["description"].endswith("."), f"{path}.{name}"
            walk(option, f"{path}.{name}")
            walk(option.get("additionalProperties") or {}, f"{path}.{name}.NAME")

    walk(json.loads(printed()), "")


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
