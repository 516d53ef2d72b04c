"""The problems that feedbus check reports about handlers, their resources and middleware."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from click.testing import CliRunner

from feedbus.cli import main

TOPOLOGY = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
[queues.reserve]
exchange = "orders"
routing_keys = ["new"]
handler = "app_of_check:reserve"
"""
APP = """\
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from marshmallow import Schema
from feedbus import Bus, Call, DeadLetter, Message, Middleware, Records, handler, resource

class Client: ...

@resource
def client() -> Iterator[Client]:
    yield Client()

@handler(Schema)
def reserve(order: dict, message: Message, client: Client) -> None: ...

def compensate(letter: DeadLetter, bus: Bus, client: Client) -> None: ...

class Timing(Middleware):
    def __init__(self, client: Client) -> None: ...

    @contextmanager
    def around(self, call: Call) -> Iterator[None]:
        yield
"""
MIDDLEWARE = '[middleware]\nuse = ["app_of_check:Timing"]\n'
RETRY = 'retry = { delays = ["1s"], then = "drop", '


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)

    def run(more: str = "", *, before: str = "", after: str = "") -> str:
        assert before in APP
        (tmp_path / "app_of_check.py").write_text(APP.replace(before, after) if before else APP)
        (tmp_path / "topology.toml").write_text(TOPOLOGY + more)
        sys.modules.pop("app_of_check", None)
        importlib.invalidate_caches()
        return CliRunner().invoke(main, ["check"]).stdout

    return run


def test_handlers_with_all_that_there_is_are_well(check):
    more = 'dead_handler = "app_of_check:compensate"\n'
    more += RETRY + 'retry_on = ["OSError"], reject_on = ["ValueError", "json.JSONDecodeError"] }\n'
    more += '[processes.web]\ncommand = "python -m web"\n[processes.true]\ncommand = "true"\n'
    assert check(more + MIDDLEWARE).startswith("topology.toml: ok, 1 exchange, ")


HANDLER = "7:11: [queues.reserve] handler: reserve (app_of_check.py:12) "
WRONG = {
    "no parameter": (
        ("order: dict, message: Message, client: Client", ""),
        f"{HANDLER}has no parameter for the message: expected the message as its first parameter",
    ),
    "a parameter that nobody gives": (
        ("message: Message, client", "message: int, client"),
        (
            f"{HANDLER}has a parameter for which feedbus has no value: 'message: int' (the"
            " resources of its module are client: Client; there is a session only on a queue with a"
            f" store): expected bus: Bus, message: Message, the"
            f" value of a resource, or a default"
        ),
    ),
    "an annotation that cannot be evaluated": (
        ("message: Message, client", "message: 'Mesage', client"),
        (
            f"{HANDLER}has the annotation 'message: Mesage', which cannot be evaluated (NameError:"
            " name 'Mesage' is not defined); define or import it at the top of the module,"
            " outside of TYPE_CHECKING: expected"
        ),
    ),
    "a return annotation": (
        ("client: Client) -> None: ...\n\ndef comp", "client: Client) -> bool: ...\n\ndef comp"),
        (
            f"{HANDLER}has the return annotation bool: expected -> None; to reject, retry or"
            f" drop a record, raise Reject, Retry or Drop"
        ),
    ),
    "a message in a batch": (
        (
            "(Schema)\ndef reserve(order: dict",
            "(Schema, batch=True)\ndef reserve(order: Records",
        ),
        (
            f"{HANDLER}has a parameter that it cannot have: 'message: Message': expected"
            " records.messages: each record of a batch has a message of its own"
        ),
    ),
    "a resource that does not say its type": (
        ("def client() -> Iterator[Client]:", "def client():"),
        (
            "7:11: [queues.reserve] handler: client (app_of_check.py:8) is a resource without a"
            " return annotation: expected -> Iterator[TYPE]"
        ),
    ),
    "an async resource": (
        (
            "def client() -> Iterator[Client]:\n    yield",
            "async def client() -> Client:\n    return",
        ),
        (
            f"{HANDLER}is not async, but needs the async resource client (app_of_check.py:8):"
            " expected an async handler, or a resource that is defined with 'def'"
        ),
    ),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_a_handler_that_cannot_be_called_is_a_problem(check, change, said):
    found = check(before=change[0], after=change[1])
    assert found.startswith(f"topology.toml:{said}")


AROUND = {
    "a dead handler that is not there": (
        'dead_handler = "app_of_check:compansate"\n',
        (
            "8:16: [queues.reserve] dead_handler: the module app_of_check has no 'compansate';"
            " expected"
        ),
    ),
    "a dead handler that is a class": (
        'dead_handler = "app_of_check:Client"\n',
        "8:16: [queues.reserve] dead_handler: Client (app_of_check.py:6) is not a function",
    ),
    "an exception that is not there": (
        RETRY + 'retry_on = ["OSErorr"] }\n',
        "8:55: [queues.reserve] retry.retry_on[0]: there is no built-in exception 'OSErorr'; write",
    ),
    "an exception that is none": (
        RETRY + 'reject_on = ["app_of_check:Client"] }\n',
        "8:56: [queues.reserve] retry.reject_on[0]: app_of_check:Client is not an exception class",
    ),
    "an exception in both lists": (
        RETRY + 'retry_on = ["OSError"], reject_on = ["builtins.OSError"] }\n',
        "8:80: [queues.reserve] retry.reject_on[0]: 'builtins.OSError' is also in retry_on:",
    ),
    "an exception that is no name": (
        RETRY + 'reject_on = ["not a name"] }\n',
        "8:56: [queues.reserve] retry.reject_on[0]: expected the dotted name of an exception, such",
    ),
    "middleware that is none": (
        MIDDLEWARE.replace("Timing", "Client"),
        "9:8: [middleware] use[0]: Client (app_of_check.py:6) is not a middleware but <class",
    ),
    "a program that is not there": (
        '[processes.web]\ncommand = "pyton -m web"\n',
        (
            "9:11: [processes.web] command: there is no program 'pyton': no folder of PATH"
            " contains it;"
            " expected a program that can be started"
        ),
    ),
    "a program in a folder": (
        '[processes.web]\ncommand = ["bin/web"]\n',
        "9:11: [processes.web] command: there is no program 'bin/web': ",
    ),
    "an option that is not there": (
        'dead_handlr = "app_of_check:compensate"\n',
        "8:1: [queues.reserve] dead_handlr: unknown option; did you mean 'dead_handler'?",
    ),
}


@pytest.mark.parametrize(("more", "said"), AROUND.values(), ids=AROUND)
def test_what_surrounds_a_handler_and_does_not_fit_is_a_problem(check, more, said):
    assert check(more).startswith(f"topology.toml:{said}")


def test_middleware_that_asks_for_what_is_not_there_is_a_problem(check):
    found = check(MIDDLEWARE, before="(self, client: Client)", after="(self, bus: Bus)")
    assert found.startswith(
        "topology.toml:9:8: [middleware] use[0]: Timing (app_of_check.py:17) has a parameter for"
        " which feedbus has no value: 'bus: Bus' (the resources of its module are client: Client):"
        " expected topology: Topology, the value of a resource, or"
    )


def test_run_says_the_same_before_it_starts(check, tmp_path):
    check('dead_handler = "app_of_check:Client"\n')
    done = subprocess.run(
        [sys.executable, "-m", "feedbus", "run", "reserve"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    place = "topology.toml:8:16: [queues.reserve] dead_handler: "
    assert f"{place}Client (app_of_check.py:6) is not a function" in done.stderr


def test_a_module_without_a_module_that_it_imports_is_one_problem(check):
    second = '[queues.mail]\nexchange = "orders"\nrouting_keys = ["mail"]\n'
    second += 'handler = "app_of_check:mail"\n'
    before = "from marshmallow import Schema"
    reported = check(second, before=before, after=f"{before}\nimport not_installed")
    assert reported.splitlines() == [
        (
            "topology.toml:7:11: [queues.reserve] handler: cannot import app_of_check:"
            " ModuleNotFoundError: No module named 'not_installed' (app_of_check.py:4)"
        ),
    ]


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        ("limit = no_limit", "NameError: name 'no_limit' is not defined (app_of_check.py:4)"),
        ("def broken(:", "invalid syntax (app_of_check.py:4)"),
        ("raise SystemExit(3)", "the module ends the process (exit code 3) (app_of_check.py:4)"),
        (
            "@feedbus.handler(retries=3)\ndef late(): ...",
            (
                "TypeError: handler() has no argument 'retries': expected batch; queues and their"
                " options, such as retry, are in topology.toml (app_of_check.py:4)"
            ),
        ),
        (
            "@feedbus.handler('mail')\ndef late(): ...",
            (
                "TypeError: message: expected a dataclass, a msgspec.Struct, a pydantic model, a"
                " marshmallow schema, dict, str or bytes, got 'mail' of type str; queues and their"
                " options, such as retry, are in topology.toml (app_of_check.py:4)"
            ),
        ),
    ],
)
def test_a_module_with_an_error_is_one_problem_with_its_line_wherever_it_is_named(
    check, code, reported
):
    """The first place in the file is that of a store, a dead handler or a middleware, too."""
    before = "from marshmallow import Schema"
    more = 'dead_handler = "app_of_check:dead"\n[middleware]\nuse = ["app_of_check:Timing"]\n'
    more += '[store]\nurl = "sqlite:///s.db"\nprepare = "app_of_check:prepare"\n'
    found = check(more, before=before, after=f"import feedbus\n{code}\n{before}").splitlines()
    assert found == [
        f"topology.toml:7:11: [queues.reserve] handler: cannot import app_of_check: {reported}"
    ]


def test_modules_that_import_a_module_with_an_error_are_one_problem(check, tmp_path):
    (tmp_path / "of_both.py").write_text("limit = no_limit\n")
    (tmp_path / "other_app.py").write_text("import of_both\n")
    second = '[queues.mail]\nexchange = "orders"\nrouting_keys = ["mail"]\n'
    second += 'handler = "other_app:mail"\n'
    before = "from marshmallow import Schema"
    assert check(second, before=before, after=f"import of_both\n{before}").splitlines() == [
        (
            "topology.toml:7:11: [queues.reserve] handler: cannot import app_of_check: NameError:"
            " name 'no_limit' is not defined (of_both.py:1)"
        ),
    ]
