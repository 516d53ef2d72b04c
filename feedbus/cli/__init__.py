"""The command line: a group of commands, each of which is imported when it is called."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from feedbus import __version__
from feedbus.errors import FeedbusError, error_text
from feedbus.printable import printable
from feedbus.process import interrupts
from feedbus.process.slow_server_notices import notices

if TYPE_CHECKING:
    from feedbus.topology import Topology

STARTED = time.monotonic()  # when this module was imported, after the start of Python
DEFAULT_TOPOLOGY = "topology.toml"
# These commands have a log. All others print a notice while they wait for a slow server.
LOGGING = {"run", "operations"}
# The errors about files and folders that a user can correct.
UNUSABLE = {
    *(errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}
# These commands clean up after Ctrl-C, or report what they have done. All others end at once.
INTERRUPTIBLE = {"up", "down", "restart", "apply", "publish", "dead", "balance", "logs"}

# One line of help for each command, so that --help imports no command. The module of a command has
# the name of the command.
COMMANDS: Mapping[str, str] = {
    "init": "Create a new project that runs immediately.",
    "check": "Check the topology and list every problem.",
    "plan": "Show what apply would change.",
    "apply": "Change the running system so that it matches the topology.",
    "up": "Start every consumer and process, under a supervisor.",
    "down": "Stop every consumer and process, after their current messages.",
    "restart": "Restart processes, one after the other.",
    "run": "Run one consumer in the foreground.",
    "operations": "Serve metrics, health and the operations page.",
    "status": "Show every consumer and process, and the messages that wait.",
    "logs": "Show the log lines of consumers and processes.",
    "publish": "Publish messages to an exchange.",
    "dead": "List, show, requeue, drop and purge dead letters.",
    "spread": "Predict how keys spread over shards.",
    "balance": "Find weights that spread keys evenly over shards.",
    "schema": "Print the JSON Schema of topology.toml.",
    "asyncapi": "Print the AsyncAPI document of the topology.",
    "grafana": "Print a Grafana dashboard of the topology.",
    "alerts": "Print the alerts for Prometheus.",
    "completion": "Print the completion script of a shell.",
}


@dataclass(frozen=True, slots=True)
class Context:
    """The object that every command receives as ctx.obj.

    Attributes:
        topology_path: the path of the topology file, from --topology or FEEDBUS_TOPOLOGY.

    """

    topology_path: Path

    def load(self, *, import_handlers: bool = False, connects: bool = True) -> Topology:
        """Read the topology file of the command, check everything in it, and return the topology.

        Args:
            import_handlers: whether to import every handler, too, and to check that it fits its
                queue.
            connects: whether the command connects to the broker or the store, or starts processes.
                If not, environment variables that only these need may be unset.

        Raises:
            TopologyError: the file has problems; the error lists all of them.

        """
        from feedbus import config

        return config.load(self.topology_path, import_handlers=import_handlers, connects=connects)

    def load_with_same_broker(self) -> Topology:
        """Return the topology; raise UsageError if a supervisor runs with another broker.

        Commands that read or change messages on the broker call the method.

        Raises:
            TopologyError: the file has problems; the error lists all of them.
            UsageError: a supervisor runs in the folder `var` of the topology, with another broker.

        """
        from feedbus.supervisor.broker_mismatch import require_same_broker

        topology = self.load()
        require_same_broker(topology)
        return topology


class LazyGroup(click.Group):
    """The group of feedbus's commands and of the commands in [commands] of the topology.

    A command's module is imported only when the command is called or its help is shown.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of feedbus's commands, then those of the project; click calls it."""
        return [*COMMANDS, *(name for name in self._project(ctx) if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or None for an unknown name; click calls the method.

        Args:
            ctx: click's context of the whole command line.
            cmd_name: the name of the command.

        Raises:
            TopologyError: no command of feedbus has this name, and the topology has problems. So it
                is not known whether the topology has such a command.
            FeedbusError: the object that [commands] names is not a click command.

        """
        if cmd_name in COMMANDS:
            command = importlib.import_module(f"feedbus.cli.{cmd_name}").command
        else:
            path = topology_path(ctx)
            absent = not os.path.exists(path)  # noqa: PTH110 -- Path.exists() raises an error if a folder may not be read
            # During completion, and without a topology file, problems of the file are ignored.
            lenient = ctx.resilient_parsing or absent
            named = self._project(ctx) if lenient else Context(path).load(connects=False).commands
            if cmd_name not in named:
                return None
            from feedbus.handling.imported_objects import resolve_object

            command = resolve_object(named[cmd_name], path.absolute().parent)
        if not isinstance(command, click.Command):
            msg = (
                f"[commands] {cmd_name}: expected the dotted name of a click command, got a"
                f" {type(command).__name__}"
            )
            raise FeedbusError(msg)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the called command; for an unknown name, end with an error that suggests a name.

        click calls the method.

        Args:
            ctx: click's context of the whole command line.
            args: the words of the command line, from the name of the command on.

        Returns:
            The name, the command, and the words after the name.

        """
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.UsageError:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if near and not args[0].startswith("-"):
                ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
            raise
        if name in INTERRUPTIBLE or name not in COMMANDS:
            interrupts.raise_interrupts()
        notices.show_with(None if name in LOGGING else _notify)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands into the help; the project's commands have their own heading.

        click calls the method for `feedbus --help`.

        Args:
            ctx: click's context of the whole command line.
            formatter: the text of the help, to which the list is added.

        """
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        own = [
            (name, dotted) for name, dotted in self._project(ctx).items() if name not in COMMANDS
        ]
        if own:
            with formatter.section(f"Commands of {topology_path(ctx)}"):
                formatter.write_dl(own)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Return the commands that begin with a text, without importing them, for the shell.

        Args:
            ctx: click's context of the whole command line.
            incomplete: the beginning of the command's name.

        """
        from click.shell_completion import CompletionItem

        own = dict.fromkeys(self._project(ctx), "a command of this project")
        helps = {**COMMANDS, **own, **COMMANDS}  # feedbus's commands first, with their own texts
        options = click.Command.shell_complete(self, ctx, incomplete)
        found = [
            CompletionItem(name, help=text)
            for name, text in helps.items()
            if name.startswith(incomplete)
        ]
        return [*found, *options]

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; print an error of feedbus as one line, without a traceback.

        After such an error, the exit code is 1; after Ctrl-C, it is 130. click calls the method.

        Args:
            ctx: click's context of the whole command line.

        """
        try:
            return super().invoke(ctx)
        except FeedbusError as error:
            click.echo(error_text(error), err=True)
            raise click.exceptions.Exit(1) from None
        except OSError as error:
            # An error in a project's own command needs its traceback.
            known = ctx.invoked_subcommand in COMMANDS
            if not known or error.filename is None or error.errno not in UNUSABLE:
                raise
            click.echo(_unusable(error), err=True)
            raise click.exceptions.Exit(1) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(interrupts.INTERRUPTED) from None
        finally:
            notices.show_with(None)

    def _project(self, ctx: click.Context) -> Mapping[str, str]:
        """Map each command in [commands] to its dotted name; empty if the file has problems."""
        try:
            return Context(topology_path(ctx)).load(connects=False).commands
        except FeedbusError:
            return {}


def _unusable(error: OSError) -> str:
    """Return the line about a file or folder that the operating system does not let feedbus use."""
    return (
        f"error: {printable(os.fsdecode(error.filename))}: cannot be read, written or created:"
        f" {str(error.strerror).lower()}; correct the permissions or the file system, or set var in"
        " the topology to another folder"
    )


def _notify(line: str) -> None:
    click.echo(line, err=True)


def topology_path(ctx: click.Context) -> Path:
    """Return the path of the topology file that a command uses.

    During --help and completion, click has not made ctx.obj yet. So the path is read from the
    option or the environment variable.

    Args:
        ctx: click's context of the command.

    """
    asked = ctx.find_root().params.get("topology")
    return Path(asked or os.environ.get("FEEDBUS_TOPOLOGY") or DEFAULT_TOPOLOGY)


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 -- click's
    del parameter
    if wanted and not ctx.resilient_parsing:
        click.echo(f"feedbus {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExamples:\n  feedbus init shop\n  feedbus check\n  feedbus up\n"
    "  feedbus --topology other/topology.toml status",
)
@click.option(
    "--topology",
    type=click.Path(),
    envvar="FEEDBUS_TOPOLOGY",
    default=DEFAULT_TOPOLOGY,
    show_default=True,
    show_envvar=True,
    is_eager=True,
    metavar="FILE",
    help="The topology file.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def main(ctx: click.Context, topology: str) -> None:
    """Run the message queues and consumers that a topology file declares."""
    ctx.obj = Context(Path(topology))
