"""feedbus check: as a user calls it, and as a program reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from feedbus.cli import main

PROJECT = Path(__file__).parent.parent
GOOD = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
feed = { type = "x-consistent-hash" }
[queues.orders]
exchange = "orders"
routing_keys = ["new"]
handler = "handlers_of_check:take"
[queues.feed]
exchange = "feed"
shards = 3
handler = "handlers_of_check:take"
[processes.web]
command = "python -m web"
"""
HANDLERS = """\
from marshmallow import Schema
from feedbus import Bus, Records, handler

@handler(Schema)
def take(message: dict, bus: Bus): ...
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "topology.toml").write_text(GOOD)
    (tmp_path / "handlers_of_check.py").write_text(HANDLERS)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.delitem(sys.modules, "handlers_of_check", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feedbus", "check", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_good_topology_is_reported_in_one_line_and_exits_0(shop):
    done = check(cwd=shop)
    reported = "topology.toml: ok, 2 exchanges, 2 queues, 3 shards, 4 consumers, 1 other process\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, reported, "")


def test_a_pattern_on_a_direct_exchange_is_noted(shop):
    (shop / "topology.toml").write_text(
        'name = "shop"\n[exchanges]\norders = { type = "direct" }\n'
        '[queues.mail]\nexchange = "orders"\nrouting_keys = ["mail.#", "a#"]\nhandler = "app:f"\n'
    )
    (shop / "app.py").write_text(
        "from feedbus import handler\n@handler\ndef f(order: dict) -> None: ...\n"
    )
    done = check(cwd=shop)
    assert done.returncode == 0
    assert done.stderr == (
        "note: [queues.mail] routing_keys: the exchange 'orders' is of type direct, so 'mail.#' is"
        " no pattern: the queue gets only messages with exactly this routing key; patterns need an"
        " exchange of type topic\n"
    )


def test_problems_are_reported_on_stdout_one_a_line_and_counted_on_stderr(shop):
    wrong = GOOD.replace("shards = 3", "shards = 0").replace('"orders"\nrou', '"order"\nrou')
    (shop / "topology.toml").write_text(wrong)
    done = check(cwd=shop)
    assert done.returncode == 1
    assert done.stdout == (
        "topology.toml:6:12: [queues.orders] exchange: no exchange named 'order'; "
        "did you mean 'orders'?\n"
        "topology.toml:11:10: [queues.feed] shards: expected a positive integer, got 0\n"
    )
    assert done.stderr == "topology.toml: 2 problems\n"


def test_a_handler_that_does_not_exist_is_a_problem(shop):
    (shop / "topology.toml").write_text(GOOD.replace('check:take"\n[q', 'check:tak"\n[q'))
    done = check(cwd=shop)
    assert done.returncode == 1
    assert done.stdout == (
        "topology.toml:8:11: [queues.orders] handler: the module handlers_of_check has no 'tak'; "
        "did you mean 'handlers_of_check:take'?\n"
    )


def test_an_async_handler_with_a_synchronous_store_is_a_problem_with_its_place(shop):
    (shop / "handlers_of_check.py").write_text(HANDLERS.replace("def take", "async def take"))
    assert check(cwd=shop).returncode == 0
    (shop / "topology.toml").write_text(f'{GOOD}[store]\nurl = "sqlite:///shop.db"\n')
    done = check(cwd=shop)
    assert done.returncode == 1
    reported = (
        "handler: take (handlers_of_check.py:4) is async, but a transaction of the [store] can only"
        " be used in one thread: expected a handler that is defined with 'def', or store = false in"
        " the table of the queue\n"
    )
    assert done.stdout == (
        f"topology.toml:8:11: [queues.orders] {reported}"
        f"topology.toml:12:11: [queues.feed] {reported}"
    )


def test_a_file_that_is_not_toml_exits_1_without_a_traceback(shop):
    (shop / "topology.toml").write_text("name = \n")
    done = check(cwd=shop)
    assert done.returncode == 1
    assert done.stdout == (
        "topology.toml:1:8: expected a value, got the end of the line; write a text in quotes,"
        " a number, true or false\n"
    )
    assert done.stderr == "topology.toml: 1 problem\n"


def test_a_good_topology_is_reported_as_json(shop):
    result = CliRunner().invoke(main, ["check", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "ok": True,
        "problems": [],
        "summary": {
            "exchanges": 2,
            "queues": 2,
            "shards": 3,
            "consumers": 4,
            "processes": 1,
            "commands": 0,
        },
    }


def test_problems_are_reported_as_json_with_all_their_parts(shop):
    (shop / "topology.toml").write_text(GOOD.replace("shards", "shard"))
    result = CliRunner().invoke(main, ["check", "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["ok"], report["summary"]) == (False, None)
    (problem,) = report["problems"]
    assert problem.pop("expected").startswith("one of exchange, handler, handlers, ")
    assert problem == {
        "file": "topology.toml",
        "line": 11,
        "column": 1,
        "table": "queues.feed",
        "key": "shard",
        "message": "unknown option",
        "got": "'shard'",
        "suggestion": "shards",
    }


def test_a_missing_file_is_reported_as_json_too(shop):
    result = CliRunner().invoke(main, ["check", "absent.toml", "--json"])
    assert result.exit_code == 1
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("absent.toml", 1, 1)
    assert problem["message"].startswith("cannot be read: no such file")


def test_the_file_given_wins_over_the_option(shop):
    (shop / "other.toml").write_text("name = 1")
    result = CliRunner().invoke(main, ["--topology", "other.toml", "check", "topology.toml"])
    assert result.exit_code == 0
    assert CliRunner().invoke(main, ["--topology", "other.toml", "check"]).exit_code == 1


def test_json_stays_json_when_a_handlers_module_prints(shop):
    (shop / "handlers_of_check.py").write_text(f"print('hello')\n{HANDLERS}")
    done = check("--json", cwd=shop)
    assert json.loads(done.stdout)["ok"] is True
    assert done.stderr == "hello\n"


def test_checking_imports_no_broker_library(shop):
    code = (
        "import sys\n"
        "from feedbus.cli import main\n"
        "main(['check'], standalone_mode=False)\n"
        "heavy = {'kombu', 'peewee', 'prometheus_client', 'circus', 'tree_sitter'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=shop,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_projects_own_topology_and_its_handlers_have_no_problem():
    done = check(cwd=PROJECT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "topology.toml: ok, 4 exchanges, 5 queues, 10 shards, 14 consumers"
    )
