"""docs/reference/cli.md describes each field of the JSON output of each command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus.cli import main
from feedbus.cli.json_fields import FIELDS
from tests.json_outputs import compare

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = {{ type = "x-consistent-hash" }}
mails = {{ type = "fanout" }}
[queues.reserve]
exchange = "orders"
handler = "app_of_json_fields:handle"
shards = {}
[queues.mail]
exchange = "mails"
handler = "app_of_json_fields:handle"
max_length = 1
[schedules.hourly]
exchange = "mails"
cron = "0 * * * *"
payload = {{}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project without running processes that has a ring, messages and a dead letter."""
    (tmp_path / "app_of_json_fields.py").write_text(
        "from feedbus import handler\n@handler\ndef handle(order: dict) -> None: ...\n"
    )
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "topology.toml").write_text(TOPOLOGY.format(1))
    for _ in range(2):
        run("publish", "mails", "--json", "{}")
    run("publish", "orders", "--key", "a", "--json", "{}")
    return tmp_path


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == code, done.output
    return done.stdout


def test_every_field_of_status_is_documented(folder: Path) -> None:
    unknown, unseen = compare("status", json.loads(run("status", "--json")))
    assert unknown == set()
    # tests/integration/test_starting.py has the fields of processes.
    assert {path for path in unseen if not path.startswith("hosts[]")} == {
        path for path in unseen if path.startswith("consumers.NAME.processes[]")
    }


def test_every_field_of_check_is_documented(folder: Path) -> None:
    correct = compare("check", json.loads(run("check", "--json")))
    path = folder / "topology.toml"
    path.write_text(path.read_text().replace("max_length = 1", "max_length = 0.5"))
    wrong = compare("check", json.loads(run("check", "--json", code=1)))
    assert (correct[0] | wrong[0], correct[1] & wrong[1]) == (set(), set())


def test_every_field_of_plan_is_documented(folder: Path) -> None:
    (folder / "keys").write_text("a\na\nb\n")
    (folder / "topology.toml").write_text(TOPOLOGY.format(2) + "[queues.mail.arguments]\nx-a = 1\n")
    report = json.loads(run("plan", "--json", "--keys", "keys"))
    unknown, unseen = compare("plan", report)
    assert unknown == set()
    # Nothing runs and nothing drains here. The fields of `draining` are those of a dataclass.
    assert {path for path in unseen if not path.startswith(("consumers.", "draining[]"))} == set()


def test_every_field_of_dead_letters_is_documented(folder: Path) -> None:
    (letter,) = run("dead", "list", "--json").splitlines()
    assert compare("dead list", json.loads(letter)) == (set(), set())
    shown = json.loads(run("dead", "show", "mail", json.loads(letter)["id"]))
    assert shown == json.loads(letter)


def test_every_field_of_spread_and_balance_is_documented(folder: Path) -> None:
    topology = folder / "topology.toml"
    (folder / "before.toml").write_text(topology.read_text())
    topology.write_text(TOPOLOGY.format(3))
    spread = json.loads(run("spread", "reserve", "--json", "--against", "before.toml"))
    assert compare("spread", spread) == (set(), set())
    balance = json.loads(run("balance", "reserve", "--json", "--keys", "1..1000"))
    assert compare("balance", balance) == (set(), set())


def test_names_of_fields_are_in_snake_case() -> None:
    names = {
        name.removesuffix("[]")
        for fields in FIELDS.values()
        for path in fields
        for name in path.split(".")
    }
    assert {name for name in names if name != "NAME" and name != name.lower()} == set()
