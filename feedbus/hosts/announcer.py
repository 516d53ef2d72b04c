"""The thread of the operations process that divides the shards among the hosts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Self

from feedbus import broker
from feedbus.clock import NANOSECONDS
from feedbus.errors import FeedbusError
from feedbus.hosts import assignment_file
from feedbus.hosts.announcement import Announcement
from feedbus.hosts.announcement_link import AnnouncementLink
from feedbus.hosts.assignment_file import SeenHost, Sharing
from feedbus.hosts.ready_consumers import ReadyConsumers
from feedbus.hosts.running_hosts import Membership
from feedbus.hosts.topology_file import digest_in_use, host_id
from feedbus.logs import EventLog
from feedbus.topology import Topology

events = EventLog(__name__)

ANNOUNCE_SECONDS = 1.0  # between two announcements
STEP_SECONDS = 0.25  # how long one wait for announcements lasts
RETRY_SECONDS = 1.0  # between two attempts to connect
# After this time without a connection, the assignment file is removed, because the other hosts may
# have changed the assignment. Then the broker decides which host reads a shard.
UNKNOWN_AFTER_SECONDS = 15.0
LEAVING_SECONDS = 1.5  # how long a stop waits for the end of this host's consumers
# How long a stop waits for the thread. It is shorter than the time after which the supervisor kills
# the process.
JOIN_SECONDS = 3.0


class Announcer:
    """Announces this host to the other hosts, and writes the assignment file, in a thread.

    The operations process has one Announcer object. The consumers of this host read in the
    assignment file which shards are assigned to this host.

    Example:
        with Announcer(topology):
            serve()

    """

    def __init__(self, topology: Topology) -> None:
        """Create the object; __enter__() starts the thread if it is needed.

        The thread is needed if the broker allows several hosts, and the topology has shards or
        other consumers that are assigned to hosts.
        """
        self._topology = topology
        self._clock = broker.clock(topology)
        self._host = host_id(topology)
        self._since = self._clock.wall_nanoseconds() / NANOSECONDS
        self._file_digest = digest_in_use(topology)
        self._ready = ReadyConsumers(topology)
        self._membership = Membership(self._host)
        self._path = assignment_file.assignment_path(topology)
        self._last_written: Sharing | None = None
        self._last_connected_at = self._clock.monotonic()
        self._logged_error = ""
        self._end_requested = threading.Event()
        self._is_needed = bool(self._ready) and broker.has_many_hosts(topology)
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread; if it is not needed, remove the assignment file of an earlier run."""
        if self._is_needed:
            self._thread.start()
        else:
            assignment_file.remove(self._path)
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread."""
        self._end_requested.set()
        if self._is_needed:
            self._thread.join(JOIN_SECONDS)

    def _run(self) -> None:
        while not self._end_requested.is_set():
            try:
                self._send_and_receive()
            except Exception as error:  # noqa: BLE001 -- the thread must continue
                self._log_once(error)
            self._membership.on_disconnect()
            if self._clock.monotonic() - self._last_connected_at > UNKNOWN_AFTER_SECONDS:
                self._last_written = None
                assignment_file.remove(self._path)
            self._clock.wait(self._end_requested, RETRY_SECONDS)

    def _send_and_receive(self) -> None:
        """Send and receive announcements on one connection, until the process ends.

        Raises:
            BrokerOutage: the connection is lost.

        """
        link = AnnouncementLink(self._topology)
        try:
            self._membership.on_connect(self._clock.monotonic())
            announce_at = 0.0
            while not self._end_requested.is_set():
                self._listen(link)
                now = self._last_connected_at = self._clock.monotonic()
                if now >= announce_at:
                    announce_at = now + ANNOUNCE_SECONDS
                    self._announce(link, self._ready.by_queue(now), now)
                    self._logged_error = ""
            self._leave(link)
        finally:
            link.close()

    def _listen(self, link: AnnouncementLink) -> None:
        for announcement in link.receive(STEP_SECONDS):
            self._membership.add_announcement(announcement, self._clock.monotonic())

    def _announce(
        self, link: AnnouncementLink, ready_consumers: Mapping[str, tuple[str, ...]], now: float
    ) -> None:
        """Update the assignment, announce this host, and write the assignment file.

        Args:
            link: the connection to the other hosts.
            ready_consumers: maps each queue to its consumers that are ready on this host.
            now: the time now, in seconds of the monotonic clock.

        """
        assignment = self._membership.assign(self._announcement(ready_consumers, link.queue), now)
        # assign() has updated the assignment, which is a part of the announcement. So the
        # announcement is built again.
        own_announcement = self._announcement(ready_consumers, link.queue)
        link.announce(own_announcement.encode())
        if assignment is not None:
            self._write(assignment, own_announcement, now)

    def _announcement(
        self, ready_consumers: Mapping[str, tuple[str, ...]], queue: str = ""
    ) -> Announcement:
        assignment = self._membership.assignment
        return Announcement(
            self._host, self._since, ready_consumers, assignment, self._file_digest, queue
        )

    def _leave(self, link: AnnouncementLink) -> None:
        """Announce which consumers are still ready, while the processes of this host end.

        So the other hosts take over the shards of ended consumers immediately. If only this process
        ends, for example because the topology has changed, the consumers continue and stay ready.
        Then the other hosts take over no shard: for some seconds, they wait for the announcements
        of the next operations process of this host.
        """
        if len(self._membership.hosts(self._announcement({}), self._clock.monotonic())) == 1:
            return
        until = self._clock.monotonic() + LEAVING_SECONDS
        while (now := self._clock.monotonic()) < until:
            ready_consumers = self._ready.by_queue(now, patience_seconds=0.0)
            self._announce(link, ready_consumers, now)
            if not ready_consumers:
                return
            self._listen(link)

    def _write(self, assignment: Mapping[str, str], own: Announcement, now: float) -> None:
        """Write the assignment file if its content has changed; log new hosts and gone hosts.

        Args:
            assignment: maps each consumer to its host.
            own: the latest announcement of this host.
            now: the time now, in seconds of the monotonic clock. It determines which other hosts
                count as ended.

        """
        hosts = self._membership.hosts(own, now)
        sharing = Sharing(
            self._host,
            [
                SeenHost(
                    one.host,
                    tuple(name for name, host in sorted(assignment.items()) if host == one.host),
                    one.file_digest == self._file_digest,
                )
                for one in sorted(hosts, key=lambda one: one.host)
            ],
            dict(assignment),
        )
        if sharing == self._last_written:
            return
        previous_hosts = (
            {one.host for one in self._last_written.hosts} if self._last_written else {self._host}
        )
        current_hosts = {one.host for one in sharing.hosts}
        if previous_hosts != current_hosts:
            events.info(
                "hosts_changed",
                "the hosts among which the shards are divided have changed; now:"
                f" {', '.join(sorted(current_hosts))}",
                joined=", ".join(sorted(current_hosts - previous_hosts)),
                gone=", ".join(sorted(previous_hosts - current_hosts)),
            )
        assignment_file.write(self._path, sharing)
        self._last_written = sharing

    def _log_once(self, error: Exception) -> None:
        text = str(error) if isinstance(error, FeedbusError) else repr(error)
        if text != self._logged_error:
            self._logged_error = text
            events.warning(
                "hosts_unknown",
                "this host cannot announce itself to the other hosts, and feedbus tries again every"
                " second. No message is lost, but a shard may stay with the host whose consumer"
                " subscribed first, so some hosts may have more work than others. Correct the"
                f" cause: {text}",
                error=text,
            )
