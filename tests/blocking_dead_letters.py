"""Handlers that reject records, and the commands for the dead letters of a test's system."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from click.testing import CliRunner, Result

from feedbus.cli import dead
from feedbus.errors import Reject
from feedbus.topology import Topology


@dataclass
class Loaded:
    """The message of the commands."""

    topology: Topology

    def load(self) -> Topology:
        return self.topology

    load_with_same_broker = load


def dead_command(topology: Topology) -> Callable[[list[str]], Result]:
    """Return a function that runs `feedbus dead` with arguments."""
    return partial(CliRunner().invoke, dead.command, obj=Loaded(topology))


def refusing(refused: Collection[int], seen: list[int]) -> Callable[[dict[str, Any], Any], None]:
    """Return a handler that rejects the messages of these numbers, and notes the others."""

    def refuse(message: dict[str, Any], _bus: Any) -> None:
        if message["n"] in refused:
            reason = "not now"
            raise Reject(reason)
        seen.append(message["n"])

    return refuse
