"""Supervise the processes of a topology: start them, change to another topology, stop them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
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
from feedbus.process.slots import run_folder
from feedbus.supervisor import process_groups, watcher_state
from feedbus.supervisor.applied_settings import AppliedSettings, why_restarted, write_applied
from feedbus.supervisor.forkserver_client import ForkServer
from feedbus.supervisor.log_copies import LogCopies
from feedbus.supervisor.watcher import ProcessWatcher
from feedbus.supervisor.watcher_list import WatcherList
from feedbus.supervisor.watcher_options import SUPERVISOR, watchers
from feedbus.topology import Topology

events = EventLog("feedbus.supervisor")
CHECK_SECONDS = 0.05  # the time between two checks whether processes are ready
# If some processes are not ready after this time, on_started is called without waiting for them.
REPORT_AFTER_SECONDS = 60.0
# The same if these processes hold. An outage that is over earlier is not reported, such as the
# start of a server on which a resource depends.
REPORT_HOLDS_AFTER_SECONDS = 5.0


class Supervision:
    """Starts, changes and stops the watchers of a topology.

    The supervisor has one Supervision object.

    A watcher belongs to one consumer, to one table [processes.NAME] of topology.toml, or to the
    operations process. The watcher starts the processes of its owner, and restarts processes that
    end. The watchers run in circus's arbiter. The arbiter has the event loop and answers commands.
    """

    def __init__(  # noqa: PLR0913 -- the optional ones are given by name
        self,
        arbiter: Any,
        topology: Topology,
        on_started: Callable[[list[str], list[str], float], None] | None = None,
        *,
        fork_server: ForkServer | None,
        copies: LogCopies | None = None,
        reloads: bool = False,
    ) -> None:
        """Create the watchers for the arbiter, whose sockets are already bound.

        Args:
            arbiter: circus's arbiter, before its loop runs.
            topology: the topology to run.
            on_started: called once: when each watcher is ready or has given up, or after
                REPORT_AFTER_SECONDS. If the other watchers only hold (they wait, for example during
                an outage), it is called after REPORT_HOLDS_AFTER_SECONDS. Its arguments: lines
                about the watchers that are not ready and do not hold; lines about the processes
                that hold, each with the reason; the seconds since the start.
            fork_server: starts the first processes. With None, a new Python is started for each
                process.
            copies: copies the lines of every log to stdout; with None, only log files are written.
            reloads: whether changes of the project's files are applied without a command.

        """
        self.copies = copies
        self.reloads = reloads
        self.arbiter = arbiter
        self.topology = topology
        self.on_started = on_started
        self.fork_server = fork_server
        self.started_at = time.monotonic()
        self.checking = False  # whether _check_ready() is called repeatedly
        folder = run_folder(topology)
        # This process already has these child processes. They are not processes of the topology, so
        # the supervisor does not end them.
        self._earlier_children = {one.pid for one in psutil.Process().children(recursive=True)}
        for pid in process_groups.end_strays(folder):
            events.warning(
                "leftover_ended",
                f"process {pid} was ended: it was left over from an earlier supervisor, which was"
                " killed; nothing is to be done",
                consumer=SUPERVISOR,
                pid=pid,
            )
        # The signal handlers of circus are replaced, because they lose a signal that arrives while
        # circus is busy. Signals that were ignored at the start (by nohup, or in the background of
        # a script) stay ignored.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
            if arbiter.ctrl.sys_hdl._old.get(number) is signal.SIG_IGN:  # noqa: SLF001 -- the handlers from before circus
                signal.signal(number, signal.SIG_IGN)
            else:
                arbiter.loop.asyncio_loop.add_signal_handler(number, self._on_signal, number)
        options_of_all = watchers(topology)
        if any(options["uid"] for options in options_of_all):
            # Each process opens files in the run folder, such as its lock and its ready file
            # (process/slots.py). Processes that run as another user must be able to do so, too.
            for outer_folder in (topology.var, folder):
                outer_folder.chmod(0o711)
        self.watchers = WatcherList(
            arbiter,
            [self._make(options) for options in options_of_all],
            start_fork_server=lambda: ForkServer.start(self.topology),
        )
        self.settings = AppliedSettings.of(topology)
        write_applied(topology, config.read(topology.path))
        arbiter.supervision = self  # for circus_commands

    def _make(self, options: dict[str, Any]) -> ProcessWatcher:
        if self.copies is not None:
            copied = {"copy": self.copies.of(options["name"])}
            options = options | {"stdout_stream": options["stdout_stream"] | copied}
        return ProcessWatcher(
            run_folder=run_folder(self.topology),
            reports_ready=options["name"] not in self.topology.processes,
            handles_messages=options["name"] in self.topology.consumers,
            on_spawn=self.expect_ready,
            loop=self.arbiter.loop,
            **options,
        )

    async def start(self) -> None:
        """Start every watcher; from then on, restart processes that end.

        The supervisor calls the method once, when the arbiter's loop runs.
        """
        arbiter = self.arbiter
        self._make_sockets_private()
        # circus's own periodic check is replaced by _check(): a command that arrives during the
        # check of circus would fail, and the failure would be logged.
        arbiter.ctrl.caller.stop()
        arbiter.ctrl.caller = PeriodicCallback(self._check, arbiter.check_delay * 1000)
        arbiter.ctrl.caller.start()
        PeriodicCallback(self._end_hung, watchdog.CHECK_SECONDS * 1000).start()
        arbiter.loop.asyncio_loop.add_signal_handler(signal.SIGCHLD, self._child_ended)
        await self.watchers.start_all(self.fork_server)

    async def restart(self, chosen: Sequence[ProcessWatcher]) -> None:
        """Stop watchers together; start each one again when its processes have ended.

        Args:
            chosen: the watchers.

        """
        await self.watchers.replace([(one, one) for one in chosen], [])

    async def remove(self, watcher: ProcessWatcher) -> None:
        """Stop and remove a watcher; `feedbus apply` adds it again if the topology still has it.

        `circusctl rm` calls the method.

        Args:
            watcher: the watcher of a consumer or process.

        """
        await self.watchers.remove(watcher)
        self.settings.watchers.pop(watcher.name, None)

    async def pause(self, names: Sequence[str]) -> None:
        """Stop watchers until the new topology is applied; the first step of `feedbus apply`.

        Args:
            names: the names of the watchers.

        """
        chosen = [one for one in self.watchers if one.name in names]
        await asyncio.gather(*(one.stop() for one in chosen))

    async def change_topology(self, topology: Topology) -> None:
        """Change the watchers to the watchers of a topology; unchanged watchers continue to run.

        `feedbus apply` calls the method. A consumer that is not in the new topology continues to
        run, because its queue may still have messages. Its watcher is called leaving. Usually, the
        consumer empties and deletes the queue, and then ends by itself. finish() ends the consumers
        that still run. Example: a queue of another system is not deleted, so its consumer runs on.

        Raises:
            UsageError: the option `user` of a watcher names no user of this machine, or it names
                another user although feedbus does not run as root.

        """
        wanted = AppliedSettings.of(topology)
        states = {one.name: watcher_state.state(one) for one in self.watchers}
        difference = self.settings.difference(wanted, os.getpid(), states)
        options_of_all = {options["name"]: options for options in watchers(topology)}
        old_consumers = self.topology.consumers
        self.topology = topology
        change_format(topology.logging.format)
        for watcher in self.watchers:
            watcher.leaving = watcher.name in difference.removed and watcher.name in old_consumers
        to_end = [one for one in self.watchers if self._must_end(one, difference)]
        present_names = {
            one.name for one in self.watchers if one not in to_end or one.name in options_of_all
        }
        new_watchers = [
            self._make(options)
            for name, options in options_of_all.items()
            if name not in present_names
        ]
        to_start_again = []
        for watcher in self.watchers:
            if watcher in to_end or watcher.leaving:
                continue
            count = options_of_all[watcher.name]["numprocesses"]
            if why_restarted(states[watcher.name], count):
                watcher.numprocesses = count
                to_start_again.append(watcher)
        pairs = [
            (one, self._make(options_of_all[one.name]) if one.name in options_of_all else None)
            for one in to_end
        ]
        # The settings map the name of each watcher to a digest of its options. The next plan and
        # the next call of this method compare these digests with those of a topology. A leaving
        # watcher gets the digest "", which no topology has. So if a later topology has the watcher
        # again, the watcher is replaced. If not, the watcher is listed as removed.
        self.settings = replace(
            wanted,
            watchers=wanted.watchers | {one.name: "" for one in self.watchers.leaving_watchers},
        )
        self.watchers.add(new_watchers)
        self.watchers.sort(options_of_all)
        await self.watchers.replace(pairs, [*new_watchers, *to_start_again])
        self.watchers.sort(options_of_all)

    @staticmethod
    def _must_end(watcher: ProcessWatcher, difference: Watchers) -> bool:
        """Whether a watcher must be removed or replaced now.

        A leaving watcher is kept while its consumer runs, because the consumer empties its queue.
        """
        if watcher.leaving:
            return not watcher.processes
        return watcher.name in difference.restarted or watcher.name in difference.removed

    async def finish(self) -> None:
        """End the watchers that are not in the new topology, as the last step of `feedbus apply`.

        The caller has waited until the queues of their consumers are empty.
        """
        await asyncio.gather(*(self.watchers.remove(one) for one in self.watchers.leaving_watchers))
        self.settings = AppliedSettings.of(self.topology)

    async def _remove_ended(self) -> None:
        for watcher in self.watchers.leaving_watchers:
            if not watcher.processes:
                await self.remove(watcher)

    def _make_sockets_private(self) -> None:
        """Let only this user connect to the sockets of circus."""
        for address in (self.arbiter.endpoint, self.arbiter.pubsub_endpoint):
            Path(address.removeprefix("ipc://")).chmod(0o600)

    def _on_signal(self, number: int) -> None:
        """Stop all processes and the supervisor; at a second Ctrl-C, do not wait for handlers."""
        if number == signal.SIGINT and self.stopping:
            self.stop(within_seconds=0.0)
        else:
            self.stop()

    @property
    def stopping(self) -> bool:
        """Whether all processes are being stopped, because the supervisor ends."""
        return bool(self.arbiter._stopping)  # noqa: SLF001 -- circus has no public attribute for it

    def stop(self, within_seconds: float = math.inf) -> None:
        """Begin to end all processes and then the supervisor; return at once.

        Args:
            within_seconds: the longest time that any process may take. A process whose
                `stop_timeout` is shorter is killed after its `stop_timeout`.

        """
        for watcher in self.arbiter.watchers:
            if isinstance(watcher, ProcessWatcher):
                watcher.shorten_stop(within_seconds)
        if not self.stopping:
            text = "stopping all processes; each consumer first finishes its messages"
            events.info("stopping", text, consumer=SUPERVISOR)
            self.arbiter._stopping = True  # noqa: SLF001 -- circus's stop() raises an error while a command runs
            self.arbiter.loop.add_callback(self._stop_all)

    async def _stop_all(self) -> None:
        arbiter = self.arbiter
        await asyncio.gather(*(one._stop(close_output_streams=True) for one in arbiter.watchers))  # noqa: SLF001 -- as above
        spared = self._earlier_children | (
            {self.fork_server.pid} if self.fork_server is not None else set()
        )
        await process_groups.end_descendants(spared, arbiter.reap_processes)
        arbiter.loop.add_callback(arbiter.loop.stop)

    def _check(self) -> None:
        if all(isinstance(one, ProcessWatcher) for one in self.arbiter.watchers):
            self._child_ended()
        else:  # an operator has added a plain watcher of circus, which needs the check of circus
            with contextlib.suppress(ConflictError):
                self.arbiter.manage_watchers()

    def _end_hung(self) -> None:
        for watcher in self.watchers:
            watcher.end_hung()

    def _child_ended(self) -> None:
        # At SIGCHLD, the ended process is reaped immediately. The periodic check calls this method,
        # too, for processes whose signal was missed.
        self.arbiter.reap_processes()
        if not self.stopping:
            for watcher in self.watchers:
                self.arbiter.loop.add_callback(watcher.manage_processes)
            self.arbiter.loop.add_callback(self._remove_ended)

    def expect_ready(self) -> None:
        """Begin to check repeatedly whether the processes are ready, until all of them are.

        A watcher calls the method after each start of a process.
        """
        if not self.checking:
            self.checking = True
            self.arbiter.loop.call_later(CHECK_SECONDS, self._check_ready)

    def _check_ready(self) -> None:
        waiting = sum(watcher.note_ready() for watcher in self.watchers)
        took = time.monotonic() - self.started_at
        pending = [
            one for one in self.watchers if not (one.all_ready or one.gave_up or one.leaving)
        ]
        if self.on_started is not None and (
            not pending
            or took > REPORT_AFTER_SECONDS
            or (
                took > REPORT_HOLDS_AFTER_SECONDS
                and all(map(watcher_state.is_ready_or_holding, pending))
            )
        ):
            on_started, self.on_started = self.on_started, None
            on_started(
                [
                    watcher_state.why_not_ready(one)
                    for one in self.watchers
                    if not (one.all_ready or watcher_state.is_ready_or_holding(one))
                ],
                [line for one in self.watchers for line in watcher_state.hold_reasons(one)],
                took,
            )
        if waiting or self.on_started is not None:
            self.arbiter.loop.call_later(CHECK_SECONDS, self._check_ready)
        else:
            self.checking = False
