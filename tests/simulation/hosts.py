"""The hosts of a simulated project, which join, end in good order, are killed, and share shards."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from feedbus import broker
from feedbus.hosts import announcer as announcers
from feedbus.hosts import assignment_file, ready_consumers
from feedbus.hosts.announcement import Announcement
from feedbus.hosts.announcement_link import AnnouncementLink
from feedbus.hosts.announcer import Announcer
from feedbus.hosts.assignment_file import AssignedConsumer
from feedbus.topology import Topology
from tests.simulation.consumers import Supervisor
from tests.simulation.replacing import replaced
from tests.simulation.scheduler import Process
from tests.simulation.system import System

LOST_SHARE = 0.1  # of the announcements, while the network has faults


class Host:
    """One host: its consumers, and the thread that announces it to the others."""

    def __init__(self, system: System, number: int) -> None:
        """Do not run yet."""
        name = f"host{number}"
        self._system = system
        self._topology = replace(system.topology, var=system.folder / name)
        self._path = assignment_file.assignment_path(self._topology)
        self._over = threading.Event()
        self._announcing: Process | None = None
        self.name = name
        self.supervisor = Supervisor(system, self._topology, at=f"@{name}", assigned=self._assigned)
        self.supervisor.wanted.clear()
        self.up = False

    def _assigned(self, consumer: str) -> AssignedConsumer:
        """Return the function by which a consumer asks whether this host works on its queue."""
        return AssignedConsumer(self._path, consumer, 0, self._system.clock)

    def join(self) -> None:
        """Start the consumers and the announcements."""
        self._system.scheduler.note("JOINS", by=self.name)
        self.up = True
        self._over = threading.Event()
        self.supervisor.want(self._topology)

    def keep_running(self) -> None:
        """Start what has to run and does not."""
        self.supervisor.keep_running()
        if self.up and (self._announcing is None or self._announcing.dead):
            seconds = self._system.scheduler.random.choice((0.1, 2.0))
            self._announcing = self._system.scheduler.start(
                f"hosts@{self.name}", lambda: self._announce(seconds)
            )

    def _announce(self, seconds: float) -> None:
        self._system.clock.sleep(seconds)
        announcer = Announcer(self._topology)
        announcer._end_requested = self._over
        announcer._run()

    def leave(self) -> None:
        """End in good order: the consumers finish, and the other hosts are notified."""
        self._system.scheduler.note("LEAVES", by=self.name)
        self.up = False
        self.supervisor.end(self.supervisor.wanted)
        self._over.set()

    def kill(self) -> None:
        """End all processes where they stand."""
        self._system.scheduler.note("IS KILLED", by=self.name)
        self.up = False
        self.supervisor.wanted.clear()
        for process in [*self.supervisor.processes(), self._announcing]:
            if process is not None:
                self._system.scheduler.kill(process)

    def assignment(self) -> dict[str, str]:
        """Return the host of each consumer, as this host knows it."""
        content = assignment_file._content(self._path)
        return dict(content["assignment"]) if content is not None else {}


class Hosts:
    """The hosts of a project."""

    def __init__(self, system: System) -> None:
        """Let the first of them run, and the others join later."""
        self._system = system
        self.all = [Host(system, number) for number in range(system.scenario.hosts)]
        self.all[0].join()
        for host in self.all[1:]:
            system.again(host.name, self._come_and_go, host, host.name)

    def keep_running(self) -> None:
        """Start what has to run and does not."""
        for host in self.all:
            host.keep_running()

    def _come_and_go(self, host: Host, name: str) -> None:
        """Join, and leave or be killed, some times over; some hosts do not come back."""
        clock, chosen = self._system.clock, self._system.scheduler.random
        for _ in range(chosen.choice((1, 2))):
            clock.sleep(chosen.choice((0.0, 0.5, 4.0)))
            host.join()
            clock.sleep(chosen.choice((1.0, 8.0, 15.0)))
            if chosen.random() < 0.5:
                host.leave()
            else:
                host.kill()
            clock.sleep(chosen.choice((0.0, 2.0, 8.0)))
        if chosen.random() < 0.5:
            host.join()
        self._system.done(name)

    def disagreements(self) -> list[str]:
        """Return the errors of the assignments that the running hosts follow."""
        up = [host for host in self.all if host.up]
        found = [host.assignment() for host in up]
        shards = sorted(self._system.topology.consumers.keys() - {"work", "middle", "ticks"})
        if len(up) == 1 and not found[0]:
            return []  # a host that was always alone
        if any(each != found[0] for each in found):
            return [f"{host.name} follows {each}" for host, each in zip(up, found, strict=True)]
        counts = Counter({host.name: 0 for host in up})
        counts.update(found[0].get(shard, "nobody") for shard in shards)
        if counts.keys() - {host.name for host in up}:
            return [f"not all of {found[0]} run: {', '.join(host.name for host in up)}"]
        if max(counts.values()) - min(counts.values()) > 1:
            return [f"the hosts have uneven shares: {dict(counts)}"]
        return [
            f"{shard} is read on {host} and assigned to {found[0][shard]}"
            for shard, host in self._reading()
            if shard in shards and found[0][shard] != host
        ]

    def _reading(self) -> Iterator[tuple[str, str]]:
        """Yield each consumer that has a subscription, and its host."""
        names = {
            link.owner: link.process.name
            for link in self._system.network.open_links()
            if link.process is not None
        }
        for (owner,) in self._system.broker.consumers():
            consumer, _, host = names.get(owner, "").partition("@")
            yield consumer, host


@contextmanager
def simulated(system: System) -> Iterator[None]:
    """Let hosts be what the simulation knows of them, instead of what the machine knows."""
    if system.scenario.hosts == 1:
        yield
        return
    network, receive = system.network, AnnouncementLink.receive

    def lossy(self: AnnouncementLink, seconds: float) -> list[Announcement]:
        return [each for each in receive(self, seconds) if not network.chance(LOST_SHARE)]

    def runs_ready(folder: Path, name: str, _slot: int) -> bool:
        return (folder, name) in system.ready

    def host_id(topology: Topology) -> str:
        return topology.var.name

    with ExitStack() as stack:
        for owner, attribute, value in (
            (broker, "has_many_hosts", lambda _: True),
            (ready_consumers, "runs_ready", runs_ready),
            (announcers, "host_id", host_id),
            (assignment_file.os, "getppid", lambda: 0),
            (AnnouncementLink, "receive", lossy),
        ):
            stack.enter_context(replaced(owner, attribute, value))
        yield
