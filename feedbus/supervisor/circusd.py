"""The stream class in circus.ini, with which circusd gets the watchers of the topology.

circusd is circus's own program. A project can be run with `circusd circus.ini` instead of
`feedbus up`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from feedbus import config
from feedbus.errors import FeedbusError, UsageError
from feedbus.supervisor.arbiter import become_supervisor
from feedbus.supervisor.event_output import write_events
from feedbus.supervisor.forkserver_client import ForkServer
from feedbus.supervisor.preparation import prepare
from feedbus.supervisor.watcher_options import endpoint


class Seed:
    """An object that circusd creates while it reads circus.ini, before it starts a process.

    circus.ini can contain only one kind of class that circusd uses so early: the class of a
    watcher's output stream. So the seed is the output stream of a watcher that never starts. fill()
    replaces this watcher by the topology's watchers.
    """

    def __init__(self, topology: str = "") -> None:
        """Check the topology, become the supervisor, and prepare the store and the broker.

        Args:
            topology: the path of the topology file. By default, it is the path in FEEDBUS_TOPOLOGY,
                or topology.toml in the current folder.

        """
        try:
            self.topology = config.load(config.located(topology))
            become_supervisor(self.topology)
        except FeedbusError as error:
            sys.exit(f"error: {error}")
        write_events(self.topology)
        importlib.import_module(
            "feedbus.supervisor.circus_commands"
        )  # the import defines commands, and the arbiter collects all commands when it is created
        self.fork_server = ForkServer.start(self.topology)
        if not prepare(self.topology, self.fork_server):
            sys.exit(1)
        os.chdir(self.topology.root)

    def __call__(self, received: dict[str, Any]) -> None:
        """Do nothing: circus requires a stream here, and nothing is written to it."""

    def fill(self, arbiter: Any, watcher: Any) -> None:
        """Add the watchers of the topology to the arbiter, in place of the seed's watcher.

        The arbiter's sockets are already bound.

        Args:
            arbiter: circus's arbiter, which has the event loop and the watchers.
            watcher: the watcher whose output stream is this seed.

        Raises:
            UsageError: circus.ini has other sockets than the topology, or a user is unknown.

        """
        from feedbus.supervisor.supervision import Supervision

        for found, socket in (
            (arbiter.endpoint, "circus.sock"),
            (arbiter.pubsub_endpoint, "pubsub.sock"),
        ):
            wanted = endpoint(self.topology, socket)
            bound = Path(found.removeprefix("ipc://"))
            if bound.resolve() != (self.topology.var / "run" / socket).resolve():
                msg = f"circus.ini: expected the endpoint {wanted}, got {found}"
                raise UsageError(msg)
        supervision = Supervision(arbiter, self.topology, fork_server=self.fork_server)

        async def replace() -> None:
            await supervision.start()
            if watcher in arbiter.watchers:
                arbiter.watchers.remove(watcher)
            arbiter._watchers_names.pop(watcher.name.lower(), None)  # noqa: SLF001 -- rm_watcher refuses while circus starts

        arbiter.loop.add_callback(replace)


def fill(watcher: Any, arbiter: Any, hook_name: str) -> bool:  # noqa: ARG001 -- circus's signature
    """Replace the seed's watcher by the watchers of the topology; exit if feedbus cannot run them.

    circus calls this hook before it starts the seed's watcher.

    Args:
        watcher: the watcher whose output stream is the seed.
        arbiter: circus's main object, which has the watchers.
        hook_name: not used.

    Returns:
        False, which prevents the start of the seed's watcher.

    """
    try:
        watcher.stdout_stream.fill(arbiter, watcher)
    except FeedbusError as error:
        sys.exit(f"error: {error}")
    return False
