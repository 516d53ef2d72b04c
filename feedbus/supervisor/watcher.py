"""A circus watcher that restarts at once, waits between quick failures, and can give up."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pwd
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from circus.stream.redirector import Redirector
from circus.watcher import Watcher
from tornado import gen

from feedbus.lifeline import holding, ready_since, slot_path
from feedbus.supervisor.endurance import SILENT_SECONDS, Endurance, describe_exit
from feedbus.supervisor.forks import ForkServer
from feedbus.supervisor.process import KeptProcess
from feedbus.watchdog import Watchdog, describe

logger = logging.getLogger("feedbus.supervisor")


class KeptWatcher(Watcher):
    """One consumer's or process's watcher; circusctl knows it as any other."""

    def __init__(
        self,
        *,
        start_retries: int,
        run_folder: Path,
        marks: bool,
        spawned: Callable[[], None],
        **options: Any,
    ) -> None:
        """Take circus's own options, and feedbus's.

        Args:
            start_retries: quick failures in a row before it gives up.
            run_folder: where locks and ready files are.
            marks: whether its processes surely say when they are ready; others count as ready
                after they lived for a while.
            spawned: called after each start of a process.
            options: circus's.

        """
        super().__init__(**options)
        self.spawned = spawned
        self.stderr_stream = self.stdout_stream  # one log, in the order of writing
        self.run_folder = run_folder
        self.marks = marks
        self.endurance = Endurance(start_retries)
        self.gave_up = False
        self.gave_up_because = ""
        self.restarts = 0
        self.last_exit = ""
        self.ready_pids: set[int] = set()
        self.leaving = False  # the topology has it no more: who ends is not started anew
        self.paused = False  # by apply, until it has replaced the queue
        self.forks: ForkServer | None = None  # while many processes start
        self._told_to_end: set[int] = set()
        self._watchdogs: dict[int, Watchdog] = {}
        self._resume_at = 0.0
        self._filling = False
        self._ending: Any = None
        self.hooks["after_reap"] = self._ended

    @property
    def _redirector_class(self) -> Any:
        return functools.partial(Redirector, buffer=65536)

    @property
    def _process_class(self) -> Any:
        # Another user's process must not have been this one's.
        return functools.partial(KeptProcess, forks=self.forks if self.uid is None else None)

    # -- starting ------------------------------------------------------------------------------

    def _start(self) -> Any:
        if self.arbiter is not None and self.arbiter._stopping:  # noqa: SLF001 -- circus has no other word for it
            return gen.sleep(0)
        if self.is_stopped():
            self.endurance.forgive()
            self.gave_up = self.paused = False
            self._resume_at = 0.0
        return super()._start()

    def _reload(self, graceful: bool = True, sequential: bool = False) -> Any:  # noqa: ARG002, FBT001, FBT002 -- circus's signature
        """Restart, for circus's graceful reload would run a slot's old and new process at once."""
        return self._restart()

    @gen.coroutine
    def manage_processes(self) -> Generator[Any, Any, None]:
        """Start what is missing and end what is too much; cheap when nothing has changed."""
        if not self.is_active() or self._filling or self.gave_up:
            return
        for process in list(self.processes.values()):
            if process.returncode() is not None and not process.stopping:
                self.reap_process(process.pid)
        if self.leaving or len(self.processes) == self.numprocesses:
            return
        self._filling = True
        try:
            if len(self.processes) > self.numprocesses:
                yield self._end_newest(len(self.processes) - self.numprocesses)
            elif time.monotonic() >= self._resume_at:
                yield self.spawn_processes()
        finally:
            self._filling = False

    @gen.coroutine
    def _end_newest(self, count: int) -> Generator[Any, Any, None]:
        newest = sorted(self.processes.values(), key=lambda process: process.started)[-count:]
        ended = yield [self.kill_process(process) for process in newest]
        for process, done in zip(newest, ended, strict=True):
            if done:  # it may have been reaped meanwhile
                self.processes.pop(process.pid, None)
                self.ready_pids.discard(process.pid)

    def spawn_process(self, recovery_wid: int | None = None) -> Any:
        """Start one process, whose user, if it has one, may write its slot's files."""
        if self.uid is not None:
            user = pwd.getpwnam(self.uid)
            slot = recovery_wid or self._nextwid
            for kind in ("lock", "ready", "hand", "holding"):
                path = slot_path(self.run_folder, self.name, slot, kind)
                path.touch(mode=0o600)
                os.chown(path, user.pw_uid, user.pw_gid)
        started = super().spawn_process(recovery_wid)
        if started is False:
            self.last_exit = "no start"
            self._give_up("because the system refuses to start it, as told above")
        elif started:
            self.spawned()
        return started

    # -- ending --------------------------------------------------------------------------------

    def kill_process(self, process: Any, *arguments: Any, **options: Any) -> Any:
        """End a process because somebody asked for it, which is no failure."""
        self._told_to_end.add(process.pid)
        return super().kill_process(process, *arguments, **options)

    def reap_process(self, pid: int, status: int | None = None) -> None:
        """Take leave of a process that has ended, after its last words are in the log."""
        process = self.processes.get(pid)
        if process is None:
            return
        for pipe in (process.stdout, process.stderr):
            if pipe is not None and not pipe.closed:
                self._drain(pipe.fileno(), pid)
        if self.stream_redirector is not None:
            self.stream_redirector.remove_redirections(process)
        self._ending = process
        super().reap_process(pid, status)

    def _drain(self, pipe: int, pid: int) -> None:
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(pipe, 65536):
                self.stdout_stream({"data": piece, "pid": pid})

    def _ended(self, *, process_pid: int, exit_code: int | None, **_: Any) -> bool:
        process = self._ending
        ready_at = ready_since(self._slot_path(process.wid, "ready"), process_pid)
        self.ready_pids.discard(process_pid)
        told = process_pid in self._told_to_end or self.is_stopping()
        self._told_to_end.discard(process_pid)
        if told:
            return True
        code = exit_code or 0
        if self.leaving:
            self.tell("left", describe_exit(code))
            return True
        now = time.time()
        wait_seconds = self.endurance.ended(
            code, now - process.started, None if ready_at is None else now - ready_at
        )
        self.last_exit = describe_exit(code)
        self.restarts += 1
        if self.endurance.exhausted:
            count = self.endurance.failures
            self._give_up(f"after {count} quick failures in a row, the last with {self.last_exit}")
            return True
        level = logging.WARNING if code else logging.INFO
        then = f"starting it anew in {wait_seconds:g} s" if wait_seconds else "starting it anew"
        self.tell("ended", f"{self.last_exit}; {then}", level)
        self._resume_at = time.monotonic() + wait_seconds
        if wait_seconds:
            self.loop.call_later(wait_seconds, self.manage_processes)
        return True

    def _give_up(self, why: str) -> None:
        self.gave_up = True
        self.gave_up_because = why
        where = f"its log is {self.stdout_stream.path}"
        again = f"try again with: circusctl start {self.name}"
        self.tell("gave up", f"{why}; {where}; {again}", logging.ERROR)
        self.loop.add_callback(self._stop, True)

    # -- telling -------------------------------------------------------------------------------

    def tell(self, what: str, detail: str, level: int = logging.INFO) -> None:
        """Log one event: who, what, and the rest."""
        extra = {"watcher": self.name, "what": what}
        logger.log(level, "%s %s: %s", self.name, what, detail, extra=extra)

    def _slot_path(self, slot: int, kind: str) -> Path:
        return slot_path(self.run_folder, self.name, slot, kind)

    def look_for_ready(self) -> int:
        """Tell of processes that have become ready and return how many have not."""
        waiting = 0
        for process in self.processes.values():
            if process.pid in self.ready_pids:
                continue
            age = process.age()
            ready_at = ready_since(self._slot_path(process.wid, "ready"), process.pid)
            if ready_at is None and (self.marks or age < SILENT_SECONDS):
                waiting += 1
                continue
            self.ready_pids.add(process.pid)
            took = age if ready_at is None else ready_at - process.started
            self.tell("ready", f"process {process.pid}, after {took:.1f} s")
        return waiting

    @property
    def all_ready(self) -> bool:
        """Whether all of its processes do their work."""
        return bool(self.is_active()) and len(self.ready_pids) == self.numprocesses

    def end_hung(self) -> None:
        """End processes whose handler is over its time; cheap while none is."""
        watched = {pid: self._watchdogs.get(pid) for pid in self.processes}
        self._watchdogs = {
            pid: known or Watchdog(self._slot_path(self.processes[pid].wid, "hand"), pid)
            for pid, known in watched.items()
        }
        for watchdog in self._watchdogs.values():
            note = watchdog.look()
            if note is not None:
                self.tell("hangs", describe(note), logging.ERROR)
                line = f"{self.name} hangs {describe(note)}\n"
                self.stdout_stream({"data": line.encode(), "pid": note.pid})

    def _holding(self, process: Any) -> str:
        return holding(self.run_folder, self.name, process.wid, process.pid)

    def state(self) -> dict[str, Any]:
        """Return what `feedbus status` shows of this watcher."""
        if self.leaving:
            state = "leaving"
        elif self.gave_up:
            state = "gave up"
        elif not self.is_active():
            state = str(self.status())
        elif len(self.processes) < self.numprocesses and time.monotonic() < self._resume_at:
            state = "waiting"
        else:
            state = "running" if self.all_ready else "starting"
        if state == "running" and any(self._holding(one) for one in self.processes.values()):
            state = "holding"
        processes = [
            {
                "pid": process.pid,
                "slot": process.wid,
                "ready": process.pid in self.ready_pids,
                "uptime_seconds": round(process.age(), 1),
                "holding": self._holding(process),
            }
            for process in self.processes.values()
        ]
        return {
            "state": state,
            "processes": processes,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }
