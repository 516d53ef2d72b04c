"""Fill a circus arbiter with a topology's watchers and keep watch: the one way to start them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from circus.commands.base import Command
from circus.exc import ConflictError
from tornado.ioloop import PeriodicCallback

from feedbus import config, watchdog
from feedbus.errors import FeedbusError
from feedbus.lifeline import run_folder
from feedbus.plan.changes import Watchers
from feedbus.supervisor.forks import ForkServer
from feedbus.supervisor.settings import Settings
from feedbus.supervisor.watcher import KeptWatcher
from feedbus.supervisor.watchers import applied_path, watchers
from feedbus.topology import Topology

logger = logging.getLogger("feedbus.supervisor")
LOOK_SECONDS = 0.05
WORTH_FORKING = 4  # processes: for fewer, a fork server's own imports take longer
SETTLE_SECONDS = 60.0


class Supervision:
    """A topology's watchers in an arbiter, from their start until they have settled."""

    def __init__(
        self,
        arbiter: Any,
        topology: Topology,
        settled: Callable[[list[str], float], None] | None = None,
        *,
        forks: ForkServer | None,
    ) -> None:
        """Make the watchers and give them to the arbiter, whose sockets are bound.

        Args:
            arbiter: circus's, before its loop runs.
            topology: what is to run.
            settled: called once, when everything is ready or has given up, with what is not
                ready and why, and the seconds it took.
            forks: where the first processes come from, None to start each anew.

        """
        self.arbiter = arbiter
        self.topology = topology
        self.settled = settled
        self.forks = forks
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
        self.watchers = [self._make(options) for options in options_of_all]
        self.settings = Settings.of(topology)
        keep(topology, config.read(topology.path))
        arbiter.supervision = self  # for the commands below

    def _make(self, options: dict[str, Any]) -> KeptWatcher:
        return KeptWatcher(
            run_folder=run_folder(self.topology),
            marks=options["name"] in self.topology.consumers,
            spawned=self.expect_ready,
            loop=self.arbiter.loop,
            **options,
        )

    async def start(self) -> None:
        """Start every watcher, and from then on what ends."""
        arbiter = self.arbiter
        self._close_sockets_to_others()
        # circus's own check tells of every command that it collides with, and makes it collide.
        arbiter.ctrl.caller.stop()
        arbiter.ctrl.caller = PeriodicCallback(self._check, arbiter.check_delay * 1000)
        arbiter.ctrl.caller.start()
        PeriodicCallback(self._end_hung, watchdog.LOOK_SECONDS * 1000).start()
        arbiter.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._child_ended)
        for watcher in self.watchers:
            self._put_in(watcher)
        await self._start(self.watchers, self.forks)

    @staticmethod
    async def _start(chosen: Iterable[KeptWatcher], forks: ForkServer | None) -> None:
        with forks or contextlib.nullcontext():
            for watcher in chosen:
                watcher.forks = forks
                await watcher._start()  # noqa: SLF001 -- start() refuses while anything else goes on
                watcher.forks = None

    def _put_in(self, watcher: KeptWatcher) -> None:
        arbiter = self.arbiter
        watcher.initialize(arbiter.evpub_socket, arbiter.sockets, arbiter)
        arbiter.watchers.append(watcher)
        arbiter._watchers_names[watcher.name.lower()] = watcher  # noqa: SLF001 -- add_watcher makes plain ones

    async def _take_out(self, watcher: KeptWatcher) -> None:
        """Stop a watcher and forget it."""
        self.watchers = [one for one in self.watchers if one is not watcher]
        await watcher._stop(close_output_streams=True)  # noqa: SLF001 -- stop() refuses while anything else goes on
        if watcher in self.arbiter.watchers:
            self.arbiter.watchers.remove(watcher)
            self.arbiter._watchers_names.pop(watcher.name.lower(), None)  # noqa: SLF001 -- rm_watcher refuses likewise

    async def pause(self, names: Sequence[str]) -> None:
        """Stop watchers until the topology is followed."""
        chosen = [one for one in self.watchers if one.name in names]
        for watcher in chosen:
            watcher.paused = True
        await asyncio.gather(*(one._stop() for one in chosen))  # noqa: SLF001 -- as above

    async def follow(self, topology: Topology) -> None:
        """Make the watchers those of a topology: those that do not differ are not touched.

        Consumers that it has no more read what is left for them, and end by themselves.
        """
        wanted = Settings.of(topology)
        difference = self.settings.difference(wanted, os.getpid())
        options_of_all = {options["name"]: options for options in watchers(topology)}
        self.topology, consumers = topology, self.topology.consumers
        for watcher in self.watchers:
            watcher.leaving = watcher.name in difference.removed and watcher.name in consumers
        count = len(difference.added) + len(difference.restarted)
        count += sum(one.paused for one in self.watchers)
        # It imports while others end.
        forks = ForkServer.start(topology) if count >= WORTH_FORKING else None
        with forks or contextlib.nullcontext():
            to_start = await self._replace(difference, options_of_all)
            # What is leaving stays known, so that whoever asks again is told so.
            self.settings = replace(
                wanted, watchers=wanted.watchers | {one.name: "" for one in self._leaving()}
            )
            await self._start(to_start, forks)

    async def _replace(
        self, difference: Watchers, options_of_all: dict[str, Any]
    ) -> list[KeptWatcher]:
        """End what is no longer wanted as it is; return what is to be started."""
        out = [
            one
            for one in self.watchers
            if one.name in difference.restarted
            or (one.name in difference.removed and not one.leaving)
            or (one.leaving and not one.processes)
        ]
        await asyncio.gather(*(self._take_out(one) for one in out))
        there = {one.name: one for one in self.watchers}
        made = [self._make(options_of_all[name]) for name in options_of_all if name not in there]
        for watcher in made:
            self._put_in(watcher)
        self._order(made, options_of_all)
        again = [one for one in self.watchers if one.paused or (one.gave_up and not one.leaving)]
        return [*made, *again]

    def _order(self, made: Sequence[KeptWatcher], names: Iterable[str]) -> None:
        """Keep the topology's order, in which status shows them; what leaves comes last."""
        places = {name: place for place, name in enumerate(names)}
        self.watchers = sorted(
            (*self.watchers, *made), key=lambda one: places.get(one.name, len(places))
        )
        kept = set(self.watchers)
        others = [one for one in self.arbiter.watchers if one not in kept]
        self.arbiter.watchers[:] = [*others, *self.watchers]

    def _leaving(self) -> list[KeptWatcher]:
        return [one for one in self.watchers if one.leaving]

    async def finish(self) -> None:
        """End what is leaving: there is nothing left for it to read."""
        await asyncio.gather(*(self._take_out(one) for one in self._leaving()))
        self.settings = Settings.of(self.topology)

    async def _bury(self) -> None:
        for watcher in self._leaving():
            if not watcher.processes:
                await self._take_out(watcher)
                self.settings.watchers.pop(watcher.name, None)

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

    def _end_hung(self) -> None:
        for watcher in self.watchers:
            watcher.end_hung()

    def _child_ended(self) -> None:
        # At once, and not at the next check, which is only a second net.
        if not self.arbiter._stopping:  # noqa: SLF001 -- as above
            self.arbiter.reap_processes()
            for watcher in self.watchers:
                self.arbiter.loop.add_callback(watcher.manage_processes)
            self.arbiter.loop.add_callback(self._bury)

    def expect_ready(self) -> None:
        """Look for ready files until every process has said its word."""
        if not self.looking:
            self.looking = True
            self.arbiter.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        waiting = sum(watcher.look_for_ready() for watcher in self.watchers)
        took = time.monotonic() - self.started_at
        pending = [
            one for one in self.watchers if not (one.all_ready or one.gave_up or one.leaving)
        ]
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


def keep(topology: Topology, text: str) -> None:
    """Keep what a topology says where its processes read it, as readable as the file itself."""
    path = applied_path(topology)
    beside = path.with_suffix(".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    beside.chmod(topology.path.stat().st_mode & 0o777 | 0o400)
    beside.replace(path)


class State(Command):
    """Everything that feedbus status shows of processes."""

    name = "feedbus"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 -- circus's signature
        """Answer with each watcher's state, in the topology's order, and what it was started with.

        circus answers so before the watchers are there, too.
        """
        kept = [one for one in arbiter.watchers if isinstance(one, KeptWatcher)]
        supervision = getattr(arbiter, "supervision", None)
        return {
            "pid": os.getpid(),
            "watchers": {one.name: one.state() for one in kept},
            "settings": asdict(supervision.settings) if supervision else None,
        }


class Apply(Command):
    """Follow a topology that has changed: what feedbus apply asks for."""

    name = "feedbus-apply"

    def execute(self, arbiter: Any, props: dict[str, Any]) -> Any:
        """Pause the watchers named, follow the topology whose text is given, or finish."""
        return asyncio.ensure_future(self._carry_out(arbiter.supervision, props))

    async def _carry_out(self, supervision: Supervision, props: dict[str, Any]) -> dict[str, Any]:
        try:
            if "pause" in props:
                await supervision.pause(props["pause"])
            elif "text" in props:
                text = props["text"]
                topology = config.load(supervision.topology.path, text=text)
                keep(topology, text)
                await supervision.follow(topology)
            else:
                await supervision.finish()
        except FeedbusError as error:
            return {"refused": str(error)}
        return {"refused": ""}
