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
    """The type of an argument that is a name of the topology, which the shell can complete.

    The type accepts every text; the command checks whether the name exists.
    """

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
        """Return the names that begin with a text; none if the topology has problems.

        click calls the method when the user presses the tab key.

        Args:
            ctx: click's context of the command.
            param: not used.
            incomplete: the beginning of the name.

        """
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
