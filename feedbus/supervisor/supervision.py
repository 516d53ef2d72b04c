"""Fill a circus arbiter with a topology's watchers and keep watch: the one way to start them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circus.commands.base import Command
from circus.exc import ConflictError
from tornado.ioloop import PeriodicCallback

from feedbus.lifeline import run_folder
from feedbus.supervisor.watcher import KeptWatcher
from feedbus.supervisor.watchers import watchers
from feedbus.topology import Topology

logger = logging.getLogger("feedbus.supervisor")
LOOK_SECONDS = 0.05
SETTLE_SECONDS = 60.0


class Supervision:
    """A topology's watchers in an arbiter, from their start until they have settled."""

    def __init__(
        self,
        arbiter: Any,
        topology: Topology,
        settled: Callable[[list[str], float], None] | None = None,
    ) -> None:
        """Make the watchers and give them to the arbiter, whose sockets are bound.

        Args:
            arbiter: circus's, before its loop runs.
            topology: what is to run.
            settled: called once, when everything is ready or has given up, with what is not
                ready and why, and the seconds it took.

        """
        self.arbiter = arbiter
        self.topology = topology
        self.settled = settled
        self.started_at = time.monotonic()
        self.looking = False
        folder = run_folder(topology)
        # circus's own handlers lose a signal that comes while it is busy.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            arbiter.loop.asyncio_loop.add_signal_handler(number, self.stop)
        options_of_all = watchers(topology)
        if any(options["uid"] for options in options_of_all):
            for passage in (topology.var, folder):  # to the slots' files, which are theirs
                passage.chmod(0o711)
        self.watchers = [
            KeptWatcher(
                run_folder=folder,
                marks=options["name"] in topology.consumers,
                spawned=self.expect_ready,
                loop=arbiter.loop,
                **options,
            )
            for options in options_of_all
        ]

    async def start(self) -> None:
        """Start every watcher, and from then on what ends."""
        arbiter = self.arbiter
        self._close_sockets_to_others()
        # circus's own check tells of every command that it collides with, and makes it collide.
        arbiter.ctrl.caller.stop()
        arbiter.ctrl.caller = PeriodicCallback(self._check, arbiter.check_delay * 1000)
        arbiter.ctrl.caller.start()
        arbiter.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._child_ended)
        for watcher in self.watchers:
            watcher.initialize(arbiter.evpub_socket, arbiter.sockets, arbiter)
            arbiter.watchers.append(watcher)
            arbiter._watchers_names[watcher.name.lower()] = watcher  # noqa: SLF001 -- add_watcher makes plain ones
        for watcher in self.watchers:
            await watcher._start()  # noqa: SLF001 -- start() refuses while anything else goes on

    def _close_sockets_to_others(self) -> None:
        for address in (self.arbiter.endpoint, self.arbiter.pubsub_endpoint):
            Path(address.removeprefix("ipc://")).chmod(0o600)

    def stop(self) -> None:
        """End everything; circus refuses while another command runs, so ask until it does not."""
        if self.arbiter._stopping:  # noqa: SLF001 -- circus has no other word for it
            return
        try:
            self.arbiter.stop()
        except ConflictError:
            self.arbiter.loop.call_later(LOOK_SECONDS, self.stop)

    def _check(self) -> None:
        if all(isinstance(one, KeptWatcher) for one in self.arbiter.watchers):
            self._child_ended()
        else:  # somebody added a watcher of circus's own kind
            with contextlib.suppress(ConflictError):
                self.arbiter.manage_watchers()

    def _child_ended(self) -> None:
        # At once, and not at the next check, which is only a second net.
        if not self.arbiter._stopping:  # noqa: SLF001 -- as above
            self.arbiter.reap_processes()
            for watcher in self.watchers:
                self.arbiter.loop.add_callback(watcher.manage_processes)

    def expect_ready(self) -> None:
        """Look for ready files until every process has said its word."""
        if not self.looking:
            self.looking = True
            self.arbiter.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        waiting = sum(watcher.look_for_ready() for watcher in self.watchers)
        took = time.monotonic() - self.started_at
        pending = [one for one in self.watchers if not (one.all_ready or one.gave_up)]
        if self.settled is not None and (not pending or took > SETTLE_SECONDS):
            settled, self.settled = self.settled, None
            settled([_why(one) for one in self.watchers if not one.all_ready], took)
        if waiting or self.settled is not None:
            self.arbiter.loop.call_later(LOOK_SECONDS, self._look)
        else:
            self.looking = False


def _why(watcher: KeptWatcher) -> str:
    where = f"its log is {watcher.stdout_stream.path}"
    if watcher.gave_up:
        return f"{watcher.name} gave up {watcher.gave_up_because}; {where}"
    last = f", its last process ended with {watcher.last_exit}" if watcher.last_exit else ""
    return f"{watcher.name} is not ready yet{last}; {where}"


class State(Command):
    """Everything that feedbus status shows of processes."""

    name = "feedbus"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 -- circus's signature
        """Answer with each watcher's state, in the topology's order."""
        kept = [one for one in arbiter.watchers if isinstance(one, KeptWatcher)]
        return {"pid": os.getpid(), "watchers": {one.name: one.state() for one in kept}}
