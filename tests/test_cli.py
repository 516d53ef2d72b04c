"""The command line: the group, its errors, its exits and its completion."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import feedbus
from feedbus.cli import COMMANDS, Context, main
from feedbus.cli.name_completion import CONSUMER, EXCHANGE, QUEUE
from feedbus.errors import UsageError
from store.cli import migrate
from tests.topologies import FEED, ORDERS
from web.__main__ import main as web
from web.demo import demo

EXCHANGES_TABLE = """\
name = "shop"
[exchanges]
orders = { type = "direct" }
feed = { type = "x-consistent-hash" }
"""
COMMANDS_TABLE = """\
[commands]
greet = "shop_commands_of_cli:greet"
plain = "shop_commands_of_cli:plain"
"""
TOPOLOGY = EXCHANGES_TABLE + FEED + "shards = 2\n" + ORDERS + COMMANDS_TABLE

COMMAND_SOURCE = """\
import click

@click.command()
@click.argument("word")
@click.pass_obj
def greet(context, word):
    click.echo(f"{word} {context.load().name}")

def plain(): ...
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "topology.toml").write_text(TOPOLOGY)
    (tmp_path / "shop_commands_of_cli.py").write_text(COMMAND_SOURCE)
    monkeypatch.delenv("FEEDBUS_TOPOLOGY", raising=False)
    monkeypatch.delitem(sys.modules, "shop_commands_of_cli", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str):
    return CliRunner().invoke(main, arguments, prog_name="feedbus")


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feedbus", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def command(monkeypatch):
    """Let `feedbus check` run a function of the test's instead."""
    import feedbus.cli.check

    def put(function):
        monkeypatch.setattr(feedbus.cli.check, "command", click.command()(function))

    return put


def test_help_lists_every_command_with_a_line_and_the_projects_own(shop):
    result = invoke("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"  {name:<12}{line}\n" in result.output
    assert "Commands of topology.toml:\n  greet  shop_commands_of_cli:greet\n" in result.output


def commands(command: click.Command, context: click.Context) -> Iterator[click.Command]:
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, context)


@pytest.mark.parametrize(
    "root", [main, migrate, web, demo], ids=["feedbus", "migrate", "web", "demo"]
)
def test_the_help_of_every_command_shows_an_example(root):
    context = click.Context(main)
    for command in commands(root, context):
        shown = CliRunner().invoke(command, ["--help"]).output
        assert "Example" in shown, command.name
        assert "\\b" not in shown, command.name


def test_help_works_without_any_topology(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("-h")
    assert result.exit_code == 0
    assert "check" in result.output
    assert "Commands of" not in result.output


def test_help_imports_no_command_and_no_heavy_library(shop):
    code = (
        "import sys\n"
        "from feedbus.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'kombu', 'peewee', 'prometheus_client', 'circus', 'tree_sitter', 'waitress'}\n"
        "commands = {name for name in sys.modules if name.startswith('feedbus.cli.')}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)), sorted(commands))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    assert done.stdout.endswith("loaded: [] []\n")


def test_every_command_in_the_table_exists(shop):
    context = click.Context(main, info_name="feedbus")
    for name in COMMANDS:
        assert isinstance(main.get_command(context, name), click.Command), name


def test_the_version_of_the_package_is_printed(shop):
    assert invoke("--version").output == f"feedbus {feedbus.__version__}\n"


def test_a_misspelt_command_is_met_with_the_nearest_and_exits_2(shop):
    result = invoke("chek")
    assert result.exit_code == 2
    assert "No such command 'chek'. Did you mean 'check'?" in result.output


def test_a_command_of_the_project_is_run_with_the_topology(shop):
    result = invoke("greet", "hello")
    assert (result.exit_code, result.output) == (0, "hello shop\n")


def test_a_command_that_is_none_is_reported_without_a_traceback(shop):
    result = invoke("plain")
    assert result.exit_code == 1
    assert result.output.startswith(
        "error: [commands] plain: expected the dotted name of a click command"
    )


def test_a_command_that_cannot_be_imported_is_reported_without_a_traceback(shop):
    (shop / "shop_commands_of_cli.py").unlink()
    result = invoke("greet", "hello")
    assert result.exit_code == 1
    assert result.output.startswith("error: cannot import shop_commands_of_cli")


def test_a_broken_topology_is_reported_before_its_command_is_missed(shop):
    (shop / "topology.toml").write_text(TOPOLOGY.replace("shards = 2", "shards = 0"))
    result = invoke("greet", "hello")
    assert result.exit_code == 1
    assert result.output == (
        "error: 1 problem in the topology\n"
        "topology.toml:8:10: [queues.feed] shards: expected a positive integer, got 0\n"
    )


@pytest.mark.parametrize("how", ["option", "environment"])
def test_another_topology_is_chosen_by_option_or_environment(shop, monkeypatch, how):
    (shop / "elsewhere").mkdir()
    monkeypatch.chdir(shop / "elsewhere")
    if how == "environment":
        monkeypatch.setenv("FEEDBUS_TOPOLOGY", "../topology.toml")
        result = invoke("greet", "hello")
    else:
        result = invoke("--topology", "../topology.toml", "greet", "hello")
    assert (result.exit_code, result.output) == (0, "hello shop\n")


def test_the_option_wins_over_the_environment(shop, monkeypatch):
    monkeypatch.setenv("FEEDBUS_TOPOLOGY", "absent.toml")
    assert invoke("--topology", "topology.toml", "greet", "hi").output == "hi shop\n"


def test_a_users_error_is_one_line_on_stderr_and_exit_1(shop, command):
    def fail():
        msg = "no consumer named 'x'"
        raise UsageError(msg)

    command(fail)
    result = invoke("check")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "error: no consumer named 'x'\n",
    )


@pytest.mark.parametrize("words", [["up", "--detach"], ["status"], ["plan"], ["dead", "list"]])
def test_a_folder_that_cannot_be_created_is_reported_without_a_traceback(shop, words):
    (shop / "file").write_text("")
    text = TOPOLOGY.replace('name = "shop"', 'name = "shop"\nvar = "file/var"')
    broker = f'[broker]\nurl = "sqlite:///{shop}/file/a/broker.db"\n'
    (shop / "topology.toml").write_text(text + broker)
    result = invoke(*words)
    assert result.exit_code == 1
    assert "not a directory; correct the " in result.stderr
    assert f"{shop}/file" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_error_of_the_system_in_a_command_of_the_project_keeps_its_traceback(shop):
    source = "import click\n@click.command()\ndef greet(): open('topology.toml/none')\n"
    (shop / "shop_commands_of_cli.py").write_text(source)
    assert isinstance(invoke("greet").exception, NotADirectoryError)


def test_an_interrupt_exits_130_and_says_nothing(shop, command):
    def interrupt():
        raise KeyboardInterrupt

    command(interrupt)
    result = invoke("check")
    assert (result.exit_code, result.output) == (130, "")


def test_a_reader_that_goes_away_meets_no_traceback(shop):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as broken:
        done = subprocess.run(
            [sys.executable, "-m", "feedbus", "schema"],
            stdout=broken,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
    assert done.stderr == ""


def test_a_context_loads_its_topology(shop):
    assert Context(shop / "topology.toml").load().name == "shop"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_each_shell(shop, shell):
    result = invoke("completion", shell)
    assert result.exit_code == 0
    assert f"_FEEDBUS_COMPLETE={shell}_complete" in result.output


def test_an_unknown_shell_is_refused(shop):
    assert invoke("completion", "csh").exit_code == 2


def completions(words: str, shop: Path, cwords: int) -> list[str]:
    done = run(
        cwd=shop,
        _FEEDBUS_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=str(cwords),
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_complete_with_the_projects_own(shop):
    assert completions("feedbus ", shop, 1) == [*COMMANDS, "greet", "plain"]
    assert completions("feedbus ch", shop, 1) == ["check"]
    assert completions("feedbus --topology x ch", shop, 3) == ["check"]


def test_options_of_a_command_complete(shop):
    assert completions("feedbus check --j", shop, 2) == ["--json"]


def test_names_complete_from_the_topology(shop):
    context = click.Context(main, info_name="feedbus")
    parameter = click.Argument(["name"])

    def offered(kind, incomplete=""):
        return [item.value for item in kind.shell_complete(context, parameter, incomplete)]

    assert offered(CONSUMER) == ["feed_0", "feed_1", "orders"]
    assert offered(CONSUMER, "feed_") == ["feed_0", "feed_1"]
    assert offered(QUEUE) == ["feed", "orders"]
    assert offered(EXCHANGE) == ["orders", "feed"]
    (shop / "topology.toml").write_text("name =")
    assert offered(QUEUE) == []
