"""Shell completion of the names of consumers, queues and exchanges."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType

from feedbus.cli import Context, topology_path
from feedbus.errors import FeedbusError
from feedbus.topology import Topology


class NamedInTopology(StringParamType):
    """A name of the topology; the command checks whether it exists."""

    def __init__(self, name: str, known: Callable[[Topology], Iterable[str]]) -> None:
        """Create the type of an argument.

        Args:
            name: the kind of name in click's errors, such as "queue".
            known: returns the names in a topology.

        """
        self.name = name
        self._known = known

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the names with this beginning; none if the topology has problems."""
        del param
        try:
            topology = Context(topology_path(ctx)).load(connects=False)
        except FeedbusError:
            return []
        return [
            CompletionItem(name) for name in self._known(topology) if name.startswith(incomplete)
        ]


CONSUMER = NamedInTopology("consumer", lambda topology: topology.consumers)
RUNNING = NamedInTopology(
    "name", lambda topology: {*topology.consumers, *topology.queues, *topology.supervised}
)
QUEUE = NamedInTopology("queue", lambda topology: topology.queues)
EXCHANGE = NamedInTopology("exchange", lambda topology: topology.exchanges)
