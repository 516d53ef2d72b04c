"""A circus watcher that restarts processes, with waits if they fail, and can give up."""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from circus.stream.redirector import Redirector

from feedbus.process.watchdog import describe
from feedbus.supervisor import process_groups, process_stop
from feedbus.supervisor.forkserver_client import ForkServer
from feedbus.supervisor.restart_policy import SILENT_SECONDS, RestartPolicy, describe_exit
from feedbus.supervisor.slot_files import SlotFiles
from feedbus.supervisor.unlocked_watcher import UnlockedWatcher
from feedbus.supervisor.watched_process import WatchedProcess
from feedbus.supervisor.watcher_events import WatcherEvents


class ProcessWatcher(UnlockedWatcher):
    """The watcher of the processes of one consumer or of one [processes.NAME] table.

    The operations process has such a watcher, too. If a new topology changes the options of a
    watcher, a new watcher with these options replaces it. The watcher of a process that the new
    topology does not have is removed. The watcher of a consumer that the new topology does not have
    is removed later, after the consumer has emptied its queue.

    When a process ends, the watcher starts it again. The watcher gives up if too many processes in
    a row fail right after their start, or if the operating system refuses to start a process. Then
    it starts no process until an operator starts the watcher.
    """

    def __init__(
        self,
        *,
        start_retries: int,
        run_folder: Path,
        reports_ready: bool,
        handles_messages: bool,
        on_spawn: Callable[[], None],
        **options: Any,
    ) -> None:
        """Create the watcher with circus's options and feedbus's own.

        Args:
            start_retries: after this many failures in a row, each right after the start of a
                process, the watcher gives up.
            run_folder: the folder of the files of the slots. A slot is the number of a process
                among the processes of the watcher. Each slot has a lock file and other files.
            reports_ready: whether each process writes to the file "ready" of its slot when it is
                ready. Other processes count as ready after SILENT_SECONDS.
            handles_messages: whether the processes are those of a consumer.
            on_spawn: called after each start of a process.
            options: the options of circus.

        """
        super().__init__(**options)
        self.on_spawn = on_spawn
        # Stdout and stderr go to one log, in the order of writing.
        self.stderr_stream = self.stdout_stream
        self.files = SlotFiles(run_folder, self.name)
        self.reports_ready = reports_ready
        self.events = WatcherEvents(self.name, handles_messages)
        self.restart_policy = RestartPolicy(start_retries)
        self.gave_up = False
        self.gave_up_because = ""
        self.restarts = 0
        self.last_exit = ""
        self.ready_pids: set[int] = set()
        # Whether the topology no longer has this watcher. Then an ended process is not restarted.
        self.leaving = False
        self.fork_server: ForkServer | None = None  # set only while many processes start
        self._asked_to_end: set[int] = set()  # process ids
        self._resume_at = 0.0  # no process is started before this time of time.monotonic()
        self._filling = False  # whether manage_processes() is starting or ending processes
        self._ending: Any = None  # the process that is being reaped, for _on_process_end()
        self._ending_groups: set[int] = set()  # the process groups that are being ended
        self._turn = asyncio.Lock()  # held during a start or stop, so that only one of them runs
        self.longest_stop_seconds = math.inf  # the limit that shorten_stop() has set
        self.hooks["after_reap"] = self._on_process_end
        self._create_redirectors()

    @property
    def _redirector_class(self) -> Any:
        return functools.partial(Redirector, buffer=65536)

    @property
    def _process_class(self) -> Any:
        # The fork server is not used for a process of another user: the process would first run as
        # the supervisor's user.
        return functools.partial(
            WatchedProcess, fork_server=self.fork_server if self.uid is None else None
        )

    # -- starting ------------------------------------------------------------------------------

    async def _start(self) -> None:
        async with self._turn:
            if self.arbiter is None or self.arbiter._stopping:  # noqa: SLF001 -- circus has no public attribute for it
                return
            if self.is_stopped():
                self.restart_policy.reset()
                self.gave_up = False
                self._resume_at = 0.0
                self.stdout_stream.open()
                self._status = "active"
                self.notify_event("start", {"time": time.time()})
            await self.manage_processes()

    async def manage_processes(self) -> None:
        """Start missing processes, or end surplus processes.

        The supervisor calls the method periodically and when a process has ended. Nothing is
        started during the wait after a failure, or while the process group of an ended process is
        being ended.
        """
        if not self.is_active() or self._filling or self.gave_up:
            return
        for process in list(self.processes.values()):
            if process.returncode() is not None and not process.stopping:
                self.reap_process(process.pid)
        if self.leaving or self._ending_groups or len(self.processes) == self.numprocesses:
            return
        self._filling = True
        try:
            if len(self.processes) > self.numprocesses:
                await self._end_newest(len(self.processes) - self.numprocesses)
            elif time.monotonic() >= self._resume_at:
                await self.spawn_processes()
        finally:
            self._filling = False

    async def spawn_processes(self) -> None:
        """Start the missing processes; give up if the operating system refuses to start one."""
        while self.is_active() and len(self.processes) < self.numprocesses:
            if self.spawn_process() is False:
                return
            await asyncio.sleep(0)  # other watchers run between two starts

    async def _end_newest(self, count: int) -> None:
        newest = sorted(self.processes.values(), key=lambda process: process.started)[-count:]
        await asyncio.gather(*(self.kill_process(process) for process in newest))
        for process in newest:
            self.processes.pop(process.pid, None)
            self.ready_pids.discard(process.pid)

    def spawn_process(self, recovery_wid: int | None = None) -> Any:
        """Start one process.

        If the process runs as another user, that user becomes the owner of the process's files.

        Args:
            recovery_wid: the slot of the process; None for the next free slot.

        Returns:
            False if the system refuses to start the process, otherwise None or True, as in circus.

        """
        if self.uid is not None:
            self.files.give_to(self.uid, recovery_wid or self._nextwid)
        started = super().spawn_process(recovery_wid)
        if started is False:
            self.last_exit = "no start"
            self._give_up("the system refuses to start it; the reason is in the lines above")
        elif started:
            self.on_spawn()
        return started

    # -- ending --------------------------------------------------------------------------------

    async def _stop(self, close_output_streams: bool = False) -> None:  # noqa: FBT001, FBT002 -- circus's signature
        async with self._turn:
            if self.is_stopped():
                return
            self._status = "stopping"
            while self.processes:
                await self.kill_processes()
                self.reap_processes()
            while self._ending_groups:  # noqa: ASYNC110 -- groups end without an event
                await asyncio.sleep(process_stop.CHECK_SECONDS)
            self.stream_redirector.stop()
            if close_output_streams:
                self.stdout_stream.close()
            self._status = "stopped"
            self.notify_event("stop", {"time": time.time()})

    async def kill_processes(self, *arguments: Any) -> None:
        """Stop every process of the watcher, and return when all have ended.

        Args:
            arguments: the stop signal and the time limit in seconds, for kill_process(). Without
                arguments, kill_process() uses the signal and the time limit of the watcher.

        """
        running = list(self.processes.values())
        await asyncio.gather(*(self.kill_process(process, *arguments) for process in running))

    async def kill_process(
        self, process: WatchedProcess, stop_signal: int | None = None, graceful_timeout: Any = None
    ) -> bool:
        """Stop a process on request; its end does not count as a failure.

        When the process has ended or was killed, the processes that it has started (the rest of its
        process group) are ended, too.

        Args:
            process: the process.
            stop_signal: the number of the signal that asks the process to end; None for the signal
                of the watcher.
            graceful_timeout: the seconds until the process is killed; None for the stop time of the
                watcher.

        Returns:
            False if an earlier call is already stopping the process, otherwise True.

        """
        if process.stopping:
            await process_stop.wait_until_ended(process)
            return False
        process.stopping = True
        self._asked_to_end.add(process.pid)
        patience_seconds = float(graceful_timeout or self.graceful_timeout)
        killed = await process_stop.end(
            process,
            stop_signal=self.stop_signal if stop_signal is None else stop_signal,
            patience_seconds=min(patience_seconds, self.longest_stop_seconds),
            report_busy=lambda left_seconds: self.events.log_busy(process.pid, left_seconds),
        )
        if killed:
            asked_at = process.stop_asked_at or 0.0
            self.events.log_killed(process.pid, time.monotonic() - asked_at)
            self.files.clear_handler(process.wid)
        self._log_last_output(process)
        await self._end_group(process.pid)
        process.stopping = False
        process.stop()
        return True

    def shorten_stop(self, seconds: float) -> None:
        """Limit the time that each process may take to end, now and in later stops.

        `feedbus down --timeout` calls the method.

        Args:
            seconds: the longest time; after it, the process is killed.

        """
        self.longest_stop_seconds = seconds
        latest = time.monotonic() + seconds
        for process in self.processes.values():
            process.kill_at = min(process.kill_at, latest)

    async def _end_group(self, pid: int) -> None:
        """End the processes that an ended process had started."""
        self._ending_groups.add(pid)
        try:
            if await process_groups.end(pid):
                self.events.log_group_killed(pid)
        finally:
            self._ending_groups.discard(pid)

    async def _replace(self, pid: int) -> None:
        """Start a new process when the process group of an ended process has ended."""
        await self._end_group(pid)
        await self.manage_processes()

    def reap_process(self, pid: int, status: int | None = None) -> None:
        """Write the last output of an ended process to the log, then remove the process.

        circus and manage_processes() call the method.

        Args:
            pid: the process id.
            status: the exit status from os.waitpid(), or None if circus must ask for it.

        """
        process = self.processes.get(pid)
        if process is None:
            return
        self._log_last_output(process)
        self._ending = process
        super().reap_process(pid, status)

    def _log_last_output(self, process: Any) -> None:
        """Log the last output of a process that has ended."""
        process_stop.copy_last_output(process, self.stdout_stream)
        self.stdout_stream.end(process.pid)
        self.stream_redirector.remove_redirections(process)

    def _on_process_end(self, *, process_pid: int, exit_code: int | None, **_: Any) -> bool:
        """Decide whether and when a process is started in place of a process that has ended.

        circus calls the method as its hook `after_reap`, and ignores the result, which is True.

        Args:
            process_pid: the process id of the ended process.
            exit_code: the exit code; the negative number of the signal that ended the process.

        """
        process = self._ending
        ready_at = self.files.ready_since(process.wid, process_pid)
        self.ready_pids.discard(process_pid)
        asked = process_pid in self._asked_to_end
        self._asked_to_end.discard(process_pid)
        if not asked and process_groups.exists(process_pid):
            self._ending_groups.add(process_pid)
            self.loop.add_callback(self._replace, process_pid)
        if asked or self.is_stopping():
            return True
        code = exit_code or 0
        if self.leaving:
            self.events.log_removed(describe_exit(code))
            return True
        now = time.time()
        wait_seconds = self.restart_policy.count_end(
            code, now - process.started, None if ready_at is None else now - ready_at
        )
        self.last_exit = describe_exit(code)
        self.restarts += 1
        if code and self.events.handles_messages:
            self.files.record_exit(process.wid, process_pid, self.last_exit)
            # The log of the consumer gets a line, too, because a crash may have written nothing.
            self.stdout_stream.write_event(
                logging.WARNING,
                "ended",
                f"process {process_pid} ended: {self.last_exit}",
                pid=process_pid,
                exit=self.last_exit,
            )
        if self.restart_policy.exhausted:
            count = self.restart_policy.failures
            self._give_up(
                f"it has failed {count} times in a row right after its start, the last time with"
                f" {self.last_exit}"
            )
            return True
        self.events.log_ended(process_pid, self.last_exit, wait_seconds, failed=code != 0)
        self._resume_at = time.monotonic() + wait_seconds
        if wait_seconds:
            self.loop.call_later(wait_seconds, self.manage_processes)
        return True

    def _give_up(self, why: str) -> None:
        self.gave_up = True
        self.gave_up_because = why
        self.events.log_gave_up(why, self.stdout_stream.path)
        self.loop.add_callback(self._stop, close_output_streams=True)

    # -- watching ------------------------------------------------------------------------------

    def note_ready(self) -> int:
        """Log each process that has become ready; return how many are not ready yet."""
        waiting = 0
        for process in self.processes.values():
            if process.pid in self.ready_pids:
                continue
            age = process.age()
            ready_at = self.files.ready_since(process.wid, process.pid)
            if ready_at is None and (self.reports_ready or age < SILENT_SECONDS):
                waiting += 1
                continue
            self.ready_pids.add(process.pid)
            took = age if ready_at is None else ready_at - process.started
            self.events.log_ready(process.pid, took)
        return waiting

    @property
    def all_ready(self) -> bool:
        """Whether the watcher is active and all its processes are ready."""
        return bool(self.is_active()) and len(self.ready_pids) == self.numprocesses

    @property
    def waits_to_restart(self) -> bool:
        """Whether a process has ended by itself, and will be started again after a wait."""
        missing = len(self.processes) < self.numprocesses
        return missing and time.monotonic() < self._resume_at

    def end_hung(self) -> None:
        """End processes whose handler has exceeded its time limit, and log it.

        The supervisor calls the method every second.
        """
        for note in self.files.end_hung({pid: each.wid for pid, each in self.processes.items()}):
            self.events.log_hangs(note.pid, describe(note))
            self.stdout_stream.write_event(logging.ERROR, "hangs", describe(note), pid=note.pid)
