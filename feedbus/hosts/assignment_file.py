"""The file with the assignment of shards; the operations process writes it, consumers read it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feedbus import broker
from feedbus.clock import SYSTEM, Clock
from feedbus.process.private_files import open_private
from feedbus.process.slots import run_folder
from feedbus.topology import Topology

CHECK_SECONDS = 0.5  # the time between two checks of the file
# If the operations process that wrote the file has ended, the content is used for this time.
WRITER_TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class SeenHost:
    """A host of the project, as this host knows it from the announcements.

    The assignment file contains one SeenHost object for each host.

    Attributes:
        host: the id of the host.
        works_on: the names of the consumers that are assigned to the host.
        same_file: whether the host's topology file has the same content as the file of this host.

    """

    host: str
    works_on: tuple[str, ...] = ()
    same_file: bool = True


@dataclass(frozen=True, slots=True)
class Sharing:
    """The hosts of a project, and the assignment of shards to them: the content of the file.

    Attributes:
        host: the id of this host.
        hosts: all hosts, including this host.
        assignment: maps each assigned consumer to the id of its host.

    """

    host: str
    hosts: Sequence[SeenHost] = ()
    assignment: Mapping[str, str] = field(default_factory=dict)


def assignment_path(topology: Topology) -> Path:
    """Return the path of the assignment file in the run folder of a topology.

    In the file, the consumers of a host read which shards are assigned to the host.
    """
    return run_folder(topology) / "hosts.json"


def assignment_of(topology: Topology, consumer: str, *, supervised: bool) -> Callable[[], bool]:
    """Return a function that returns whether this host works on a consumer's queue now.

    A consumer's process calls the returned function again and again. The result is always True for
    a process that was started by hand, and on the embedded broker, which has only one host.

    Args:
        topology: the topology of the consumer.
        consumer: the name of the consumer.
        supervised: whether the supervisor has started the calling process.

    """
    if not supervised or not broker.has_many_hosts(topology):
        return lambda: True
    return AssignedConsumer(assignment_path(topology), consumer, os.getppid())


def write(path: Path, sharing: Sharing) -> None:
    """Replace the assignment file; processes of other users can read the new file.

    Only the operations process calls this, because the file names the calling process as its
    writer.

    Args:
        path: the path of the file, from assignment_path().
        sharing: the new content.

    """
    beside = path.with_suffix(".new")
    text = json.dumps(asdict(sharing) | {"writer": os.getpid(), "supervisor": os.getppid()})
    handle = open_private(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    beside.replace(path)


def remove(path: Path) -> None:
    """Remove the assignment file, if it exists; then the assignment is unknown.

    The broker then decides which host reads a shard.

    Args:
        path: the path of the file, from assignment_path().

    """
    path.unlink(missing_ok=True)


def read_assignment(topology: Topology) -> Sharing | None:
    """Return the hosts and the assignment of a topology; None if they are not known.

    `feedbus status` and the operations page show them. They are never known on the embedded broker,
    because it has only one host.
    """
    return read(assignment_path(topology))


def read(path: Path) -> Sharing | None:
    """Return the content of an assignment file; None if it is missing or its writer has ended.

    Args:
        path: the path of the file, from assignment_path().

    """
    content = _content(path)
    if content is None or not _process_exists(int(content["writer"])):
        return None
    hosts = [
        SeenHost(one["host"], tuple(one["works_on"]), bool(one["same_file"]))
        for one in content["hosts"]
    ]
    return Sharing(content["host"], hosts, content["assignment"])


class AssignedConsumer:
    """A function that returns whether a consumer's shard is assigned to this host.

    The process of the consumer has one AssignedConsumer object, and calls it again and again. The
    object checks the assignment file twice a second. The shard counts as assigned to this host if
    the file assigns it to this host. It also counts as assigned to this host in these cases:

    - There is no readable file, or the operations process of another supervisor has written it.
    - The operations process that wrote the file has ended more than 15 seconds ago.
    - The file assigns the shard to no host.

    So a shard can count as assigned on several hosts at the same time. Then the broker decides
    which of these hosts reads the shard.
    """

    def __init__(self, path: Path, consumer: str, supervisor: int, clock: Clock = SYSTEM) -> None:
        """Create the object for a consumer.

        Args:
            path: the path of the assignment file.
            consumer: the name of the consumer.
            supervisor: the process id of the consumer's supervisor.
            clock: the clock for the times of the checks.

        """
        self._path = path
        self._consumer = consumer
        self._supervisor = supervisor
        self._clock = clock
        self._check_at = 0.0
        self._stamp: tuple[int, ...] = ()  # identifies the content that was read last
        self._writer = 0  # the process id of the file's writer
        self._writer_seen_at = 0.0  # when the writer was last found running
        self._is_assigned_here = self._is_assigned_by_file = True

    def __call__(self) -> bool:
        """Return whether this host works on the shard, as the last check of the file has found."""
        now = self._clock.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_SECONDS
            self._is_assigned_here = self._check(now)
        return self._is_assigned_here

    def _check(self, now: float) -> bool:
        """Return whether the shard is assigned to this host; read the file if it has changed."""
        try:
            status = self._path.stat()
        except OSError:
            self._stamp = ()
            return True
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            content = _content(self._path)
            if content is None or content["supervisor"] != self._supervisor:
                return True
            self._stamp, self._writer, self._writer_seen_at = stamp, int(content["writer"]), now
            host = content["assignment"].get(self._consumer, content["host"])
            self._is_assigned_by_file = host == content["host"]
        elif _process_exists(self._writer):
            self._writer_seen_at = now
        return self._is_assigned_by_file or now - self._writer_seen_at > WRITER_TIMEOUT_SECONDS


def _content(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    return None


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
