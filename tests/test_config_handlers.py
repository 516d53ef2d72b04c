"""Handlers are imported when the topology is checked, and have to fit their queues."""

from __future__ import annotations

import itertools
import sys
import textwrap
from pathlib import Path

import pytest

from feedbus import config
from feedbus.errors import TopologyError
from tests.topologies import (
    MARK,
    ORDERS,
    START,
    assert_reported,
    write,
)

numbers = itertools.count()  # of modules: one that was imported is not imported again


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    """Write a module of handlers under a name of its own, and return that name."""
    name = f"handlers_of_config_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    source = """\
        from marshmallow import Schema
        from feedbus import handler

        @handler(Schema)
        def take(message, bus): ...

        @handler(Schema, batch=True)
        def take_many(records, bus): ...

        def plain(message, bus): ...
        """
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
    return name


def with_handler(dotted: str, options: str = "") -> str:
    return START + ORDERS.replace('"handlers.orders:take"', f'▸"{dotted}"') + options


@pytest.mark.parametrize(
    ("name", "options"),
    [("take", ""), ("take_many", "batch = { size = 5 }"), ("take_many", "")],
    ids=["one record", "a batch", "a batch of one"],
)
def test_a_handler_that_fits_is_taken(tmp_path, handlers, name, options):
    path = write(tmp_path, with_handler(f"{handlers}:{name}", options).replace(MARK, ""))
    topology = config.load(path, environ={}, import_handlers=True)
    assert topology.queues["orders"].handler == f"{handlers}:{name}"


def test_a_handler_is_not_imported_unless_asked_for(tmp_path):
    path = write(tmp_path, with_handler("no_such_module:take").replace(MARK, ""))
    assert config.load(path, environ={}).queues["orders"].handler == "no_such_module:take"


def assert_handler_problem(folder: Path, dotted: str, reported: str, options: str = "") -> None:
    assert_reported(
        folder,
        with_handler(dotted, options),
        f"[queues.orders] handler: {reported}",
        import_handlers=True,
    )


def test_a_handler_whose_module_does_not_exist_is_reported_with_the_nearest(tmp_path, handlers):
    wrong = handlers.replace("config", "confg")
    reported = f"cannot import {wrong}: there is no such module; did you mean '{handlers}:take'?"
    assert_handler_problem(tmp_path, f"{wrong}:take", reported)


def test_a_handler_that_its_module_does_not_have_is_reported_with_the_nearest(tmp_path, handlers):
    reported = f"the module {handlers} has no 'tak'; did you mean '{handlers}:take'?"
    assert_handler_problem(tmp_path, f"{handlers}:tak", reported)


def test_a_function_that_is_no_handler_is_reported(tmp_path, handlers):
    reported = (
        f"{handlers}:plain is not a handler: expected a function with the decorator"
        " @feedbus.handler"
    )
    assert_handler_problem(tmp_path, f"{handlers}:plain", reported)


def test_a_batch_for_a_handler_of_single_records_is_reported(tmp_path, handlers):
    reported = "takes one record in a call: expected @handler(…, batch=True) for batch.size 2"
    assert_handler_problem(tmp_path, f"{handlers}:take", reported, "batch = { size = 2 }\n")


@pytest.mark.parametrize(
    ("source", "reported"),
    [
        ("x = 1\nx.y\n", "AttributeError: 'int' object has no attribute 'y' (NAME.py:2)"),
        ("x = 1\ndef (:\n", "invalid syntax (NAME.py:2)"),
        (
            "import no_such_thing\n",
            "ModuleNotFoundError: No module named 'no_such_thing' (NAME.py:1)",
        ),
        ("raise SystemExit(3)\n", "the module ends the process (exit code 3) (NAME.py:1)"),
    ],
    ids=["raises", "does not parse", "imports what is not there", "exits"],
)
def test_a_module_that_cannot_be_imported_is_reported_with_its_line(
    tmp_path, monkeypatch, source, reported
):
    name = f"broken_handlers_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{name}.py").write_text(source)
    reported = reported.replace("NAME", name)
    assert_handler_problem(tmp_path, f"{name}:take", f"cannot import {name}: {reported}")


def test_an_annotation_that_is_no_message_type_is_a_problem_with_file_and_line(tmp_path, handlers):
    with (tmp_path / f"{handlers}.py").open("a") as file:
        file.write("\nfrom feedbus import handler\n@handler\ndef of_an_int(order: int): ...\n")
    line = len((tmp_path / f"{handlers}.py").read_text().splitlines()) - 1
    reported = (
        f"of_an_int ({handlers}.py:{line}) takes int: expected a dataclass, a msgspec.Struct, "
    )
    reported += "a pydantic model, a marshmallow schema, dict, str or bytes"
    assert_handler_problem(tmp_path, f"{handlers}:of_an_int", reported)


def test_a_missing_extra_is_named_with_how_to_install_it(tmp_path, monkeypatch):
    name = f"modelled_handlers_{next(numbers)}"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pydantic", None)
    (tmp_path / f"{name}.py").write_text("import pydantic\n")
    reported = f"cannot import {name}: ModuleNotFoundError: import of pydantic halted; None in sys."
    reported += f"modules ({name}.py:1); install it with: pip install 'feedbus[pydantic]'"
    assert_handler_problem(tmp_path, f"{name}:take", reported)


def test_prepare_and_commands_are_looked_for_without_importing_them(tmp_path, handlers):
    (tmp_path / f"x{handlers}.py").write_text("raise RuntimeError")
    (tmp_path / f"y{handlers}").mkdir()
    (tmp_path / f"y{handlers}/__init__.py").write_text("raise RuntimeError('not today')")
    assert_reported(
        tmp_path,
        with_handler(f"{handlers}:take").replace(MARK, "")
        + f'[commands]\ngood = "x{handlers}:x"\nbad = ▸"absent_{handlers}.y:x"\n'
        f'worse = ▸"y{handlers}.z:x"\n',
        f"[commands] bad: cannot import absent_{handlers}.y: there is no such module",
        f"[commands] worse: cannot import y{handlers}.z: RuntimeError: not today"
        f" (y{handlers}/__init__.py:1)",
        import_handlers=True,
    )


def test_what_a_module_prints_does_not_reach_stdout(tmp_path, handlers, capsys):
    with (tmp_path / f"{handlers}.py").open("a") as file:
        file.write("print('hello')\n")
    path = write(tmp_path, with_handler(f"{handlers}:take").replace(MARK, ""))
    config.load(path, environ={}, import_handlers=True)
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    "mistake", ["def broken(:", "@handler\ndef gone(m): yield"], ids=["syntax", "a generator"]
)
def test_an_error_in_a_module_is_reported_at_the_first_handler_of_the_module(
    tmp_path, handlers, mistake
):
    module = tmp_path / f"{handlers}.py"
    module.write_text(f"{module.read_text()}\n{mistake}\n")
    more = f"[queues.more]\nexchange = 'feed'\nhandler = '{handlers}:take_many'\n"
    dead = f"dead_handler = '{handlers}:plain'\n"
    text = with_handler(f"{handlers}:take") + more + dead
    path = write(tmp_path, text.replace(MARK, ""))
    with pytest.raises(TopologyError) as raised:
        config.load(path, environ={}, import_handlers=True)
    (problem,) = raised.value.problems
    assert problem.table == "queues.orders"
    assert f"{handlers}.py:" in problem.message
