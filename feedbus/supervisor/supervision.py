"""Fill a circus arbiter with a topology's watchers and keep watch: the one way to start them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from circus.exc import ConflictError
from tornado.ioloop import PeriodicCallback

from feedbus import config
from feedbus.logs import EventLog, change_format
from feedbus.plan.changes import Watchers
from feedbus.process import watchdog
from feedbus.process.lifeline import run_folder
from feedbus.process.private_files import open_private
from feedbus.supervisor import groups
from feedbus.supervisor.applied_settings import AppliedSettings, lack
from feedbus.supervisor.forks import ForkServer
from feedbus.supervisor.log_copies import LogCopies
from feedbus.supervisor.watcher import KeptWatcher
from feedbus.supervisor.watcher_options import SUPERVISOR, applied_path, watchers
from feedbus.topology import Topology

events = EventLog("feedbus.supervisor")
LOOK_SECONDS = 0.05
WORTH_FORKING = 4  # processes: for fewer, a fork server's own imports take longer
SETTLE_SECONDS = 60.0
TOGETHER_SECONDS = 2.0  # what ends within that time is started together


class Supervision:
    """A topology's watchers in an arbiter, from their start until they have settled."""

    def __init__(
        self,
        arbiter: Any,
        topology: Topology,
        settled: Callable[[list[str], list[str], float], None] | None = None,
        *,
        forks: ForkServer | None,
        copies: LogCopies | None = None,
    ) -> None:
        """Make the watchers and give them to the arbiter, whose sockets are bound.

        Args:
            arbiter: circus's, before its loop runs.
            topology: what is to run.
            settled: called once, when everything is ready or has given up, with what is not
                ready and why, what is ready but holds and why, and the seconds it took.
            forks: where the first processes come from, None to start each anew.
            copies: what copies the lines of every log to stdout, None for log files alone.

        """
        self.copies = copies
        self.arbiter = arbiter
        self.topology = topology
        self.settled = settled
        self.forks = forks
        self.started_at = time.monotonic()
        self.looking = False
        folder = run_folder(topology)
        self._strangers = {one.pid for one in psutil.Process().children(recursive=True)}
        for pid in groups.end_strays(folder):
            events.warning(
                "stray_ended",
                f"process {pid} was ended: a supervisor that was killed had started it",
                consumer=SUPERVISOR,
                pid=pid,
            )
        # circus's own handlers lose a signal that comes while it is busy. What the supervisor was
        # started with ignored, as by nohup or in the background of a script, stays ignored.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            if arbiter.ctrl.sys_hdl._old.get(number) is signal.SIG_IGN:  # noqa: SLF001 -- what was before circus
                signal.signal(number, signal.SIG_IGN)
            else:
                arbiter.loop.asyncio_loop.add_signal_handler(number, self._on_signal, number)
        options_of_all = watchers(topology)
        if any(options["uid"] for options in options_of_all):
            for passage in (topology.var, folder):  # to the slots' files, which are theirs
                passage.chmod(0o711)
        self.watchers = [self._make(options) for options in options_of_all]
        self.settings = AppliedSettings.of(topology)
        keep(topology, config.read(topology.path))
        arbiter.supervision = self  # for the commands below

    def _make(self, options: dict[str, Any]) -> KeptWatcher:
        if self.copies is not None:
            copied = {"copy": self.copies.of(options["name"])}
            options = options | {"stdout_stream": options["stdout_stream"] | copied}
        return KeptWatcher(
            run_folder=run_folder(self.topology),
            marks=options["name"] not in self.topology.processes,
            spawned=self.expect_ready,
            loop=self.arbiter.loop,
            **options,
        )

    async def start(self) -> None:
        """Start every watcher, and from then on what ends."""
        arbiter = self.arbiter
        self._close_sockets_to_others()
        # circus's own check logs every command that it collides with, and lets it fail.
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
                await watcher.start()
                watcher.forks = None

    async def restart(self, chosen: Sequence[KeptWatcher]) -> None:
        """Stop watchers at once, and start each when its processes have ended."""
        await self._replace([(one, one) for one in chosen], [])

    async def remove(self, watcher: KeptWatcher) -> None:
        """Stop a watcher and forget it, until a topology is followed that has it."""
        await self._take_out(watcher)
        self.settings.watchers.pop(watcher.name, None)

    def _put_in(self, watcher: KeptWatcher) -> None:
        arbiter = self.arbiter
        watcher.initialize(arbiter.evpub_socket, arbiter.sockets, arbiter)
        arbiter.watchers.append(watcher)
        arbiter._watchers_names[watcher.name.lower()] = watcher  # noqa: SLF001 -- add_watcher makes plain ones

    async def _take_out(self, watcher: KeptWatcher) -> None:
        self.watchers = [one for one in self.watchers if one is not watcher]
        await watcher.stop()
        if watcher in self.arbiter.watchers:
            self.arbiter.watchers.remove(watcher)
            self.arbiter._watchers_names.pop(watcher.name.lower(), None)  # noqa: SLF001 -- rm_watcher refuses likewise

    async def pause(self, names: Sequence[str]) -> None:
        """Stop watchers until the topology is followed."""
        chosen = [one for one in self.watchers if one.name in names]
        for watcher in chosen:
            watcher.paused = True
        await asyncio.gather(*(one.stop() for one in chosen))

    async def follow(self, topology: Topology) -> None:
        """Make the watchers those of a topology: those that do not differ are not touched.

        Consumers that it has no more read what is left for them, and end by themselves.
        """
        wanted = AppliedSettings.of(topology)
        states = {one.name: one.state() for one in self.watchers}
        difference = self.settings.difference(wanted, os.getpid(), states)
        options_of_all = {options["name"]: options for options in watchers(topology)}
        self.topology, consumers = topology, self.topology.consumers
        change_format(topology.logging.format)
        for watcher in self.watchers:
            watcher.leaving = watcher.name in difference.removed and watcher.name in consumers
        out = [one for one in self.watchers if self._goes(one, difference)]
        kept = {one.name for one in self.watchers if one not in out or one.name in options_of_all}
        made = {name: self._make(one) for name, one in options_of_all.items() if name not in kept}
        again = []
        for watcher in self.watchers:
            if watcher in out or watcher.leaving:
                continue
            count = options_of_all[watcher.name]["numprocesses"]
            if lack(states[watcher.name], count):
                watcher.numprocesses = count
                again.append(watcher)
        pairs = [
            (one, self._make(options_of_all[one.name]) if one.name in options_of_all else None)
            for one in out
        ]
        # What is leaving stays known, so that the next plan shows no new change.
        self.settings = replace(
            wanted, watchers=wanted.watchers | {one.name: "" for one in self._leaving()}
        )
        for watcher in made.values():
            self._put_in(watcher)
        self._order(made.values(), options_of_all)
        await self._replace(pairs, [*made.values(), *again])
        self._order([], options_of_all)

    @staticmethod
    def _goes(watcher: KeptWatcher, difference: Watchers) -> bool:
        """Whether a watcher is no longer wanted as it is."""
        if watcher.leaving:
            return not watcher.processes
        return watcher.name in difference.restarted or watcher.name in difference.removed

    async def _replace(
        self,
        pairs: Sequence[tuple[KeptWatcher, KeptWatcher | None]],
        to_start: Sequence[KeptWatcher],
    ) -> None:
        """Stop watchers and start others in their places, each when its predecessor has ended.

        Args:
            pairs: what is to be stopped, and what is started then; the same watcher starts anew.
            to_start: what is started besides.

        """
        count = len(to_start) + sum(after is not None for _, after in pairs)
        # It imports while others end.
        forks = ForkServer.start(self.topology) if count >= WORTH_FORKING else None
        endings = {asyncio.ensure_future(self._clear(*pair)): pair[1] for pair in pairs}
        with forks or contextlib.nullcontext():
            ended: set[Any] = set()
            if endings:
                ended, _ = await asyncio.wait(endings, timeout=TOGETHER_SECONDS)
            ready = [endings[one] for one in endings if one in ended]
            await self._start([*(one for one in ready if one is not None), *to_start], forks)

        async def follow_later(ending: Any, after: KeptWatcher | None) -> None:
            await ending
            if after is not None:
                await after.start()

        late = [(one, after) for one, after in endings.items() if one not in ended]
        await asyncio.gather(*ended, *(follow_later(one, after) for one, after in late))

    async def _clear(self, before: KeptWatcher, after: KeptWatcher | None) -> None:
        """Stop a watcher; put another one in its place."""
        if before is after:
            await before.stop()
            return
        await self._take_out(before)
        if after is not None:
            self.watchers.append(after)
            self._put_in(after)

    def _order(self, made: Iterable[KeptWatcher], names: Iterable[str]) -> None:
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
        self.settings = AppliedSettings.of(self.topology)

    async def _bury(self) -> None:
        for watcher in self._leaving():
            if not watcher.processes:
                await self._take_out(watcher)
                self.settings.watchers.pop(watcher.name, None)

    def _close_sockets_to_others(self) -> None:
        for address in (self.arbiter.endpoint, self.arbiter.pubsub_endpoint):
            Path(address.removeprefix("ipc://")).chmod(0o600)

    def _on_signal(self, number: int) -> None:
        """Stop; a second Ctrl-C waits for no handler any more."""
        if number == signal.SIGINT and self.stopping:
            self.stop(within_seconds=0.0)
        else:
            self.stop()

    @property
    def stopping(self) -> bool:
        """Whether everything is being stopped."""
        return bool(self.arbiter._stopping)  # noqa: SLF001 -- circus has no other word for it

    def stop(self, within_seconds: float = math.inf) -> None:
        """End everything.

        Args:
            within_seconds: the longest that any process may take; each has its own stop time too.

        """
        for watcher in self.arbiter.watchers:
            if isinstance(watcher, KeptWatcher):
                watcher.shorten_stop(within_seconds)
        if not self.stopping:
            text = "every process ends when it has finished what it is handling"
            events.info("stopping", text, consumer=SUPERVISOR)
            self.arbiter._stopping = True  # noqa: SLF001 -- circus's stop() refuses while anything else goes on
            self.arbiter.loop.add_callback(self._stop_all)

    async def _stop_all(self) -> None:
        arbiter = self.arbiter
        await asyncio.gather(*(one._stop(close_output_streams=True) for one in arbiter.watchers))  # noqa: SLF001 -- as above
        spared = self._strangers | ({self.forks.pid} if self.forks is not None else set())
        await groups.end_descendants(spared, arbiter.reap_processes)
        arbiter.loop.add_callback(arbiter.loop.stop)

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
        self.arbiter.reap_processes()
        if not self.stopping:
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
            failures = [_why(one) for one in self.watchers if not one.all_ready]
            settled(failures, [line for one in self.watchers for line in one.holds()], took)
        if waiting or self.settled is not None:
            self.arbiter.loop.call_later(LOOK_SECONDS, self._look)
        else:
            self.looking = False


def _why(watcher: KeptWatcher) -> str:
    where = f"its log is {watcher.stdout_stream.path}"
    if watcher.gave_up:
        return f"{watcher.name} is not restarted {watcher.gave_up_because}; {where}"
    last = f", its last process ended with {watcher.last_exit}" if watcher.last_exit else ""
    return f"{watcher.name} is not ready yet{last}; {where}"


def keep(topology: Topology, text: str) -> None:
    """Keep what a topology says where its processes read it, as readable as the file itself."""
    path = applied_path(topology)
    beside = path.with_suffix(".new")
    handle = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    beside.chmod(topology.path.stat().st_mode & 0o777 | 0o400)
    beside.replace(path)
