"""The running hosts, and the assignment that all of them use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from feedbus.hosts.announcement import Announcement
from feedbus.hosts.assignment import assign

GONE_SECONDS = 5.0  # a host that sends no announcement for this time counts as ended
# How long a host listens after it has connected, before it computes an assignment as the leader. In
# this time, all other hosts announce themselves.
LISTEN_SECONDS = 2.5


class Membership:
    """Stores the announcements of all hosts, and computes the assignment of shards to hosts.

    The Announcer of a host has one Membership object. All times are times of this host's monotonic
    clock.

    The host that has run longest is the leader: it computes the assignment and announces it. When
    the leader ends, the next leader continues from the last assignment, which all hosts know. If
    there are two leaders for a moment, the broker still lets only one consumer read a shard.
    """

    def __init__(self, host: str) -> None:
        """Create the object; at first, this host is the only one that is known.

        Args:
            host: the id of this host.

        """
        self._host = host
        self._announcements: dict[str, tuple[float, Announcement]] = {}
        self._listening_since: float | None = None
        self.assignment: Mapping[str, str] | None = None

    def on_connect(self, now: float) -> None:
        """Register that announcements arrive from now on, because a connection was opened.

        Hosts that were known before do not count as ended immediately. They get time to connect
        again, for example after a restart of the broker.

        Args:
            now: the time, in seconds of the monotonic clock.

        """
        self._listening_since = now
        self._announcements = {
            host: (now, latest) for host, (_, latest) in self._announcements.items()
        }

    def on_disconnect(self) -> None:
        """Register that the connection is lost: announcements arrive only after on_connect()."""
        self._listening_since = None

    def add_announcement(self, announcement: Announcement, now: float) -> None:
        """Store an announcement that has arrived; an announcement of this host is ignored.

        Args:
            announcement: the announcement of a host.
            now: the time of its arrival, in seconds of the monotonic clock.

        """
        if announcement.host != self._host:
            self._announcements[announcement.host] = (now, announcement)

    def hosts(self, own: Announcement, now: float) -> Sequence[Announcement]:
        """Return the latest announcement of each running host; the leader's comes first.

        The announcements of hosts that count as ended are forgotten.

        Args:
            own: the latest announcement of this host.
            now: the time now, in seconds of the monotonic clock.

        """
        for host, (heard_at, _) in list(self._announcements.items()):
            if now - heard_at > GONE_SECONDS:
                del self._announcements[host]
        others = [latest for _, latest in self._announcements.values()]
        return sorted([own, *others], key=lambda one: (one.since, one.host))

    def assign(self, own: Announcement, now: float) -> Mapping[str, str] | None:
        """Map each consumer to its host.

        The leader computes the assignment. Any other host gets the assignment from the leader's
        announcement. In two cases the last assignment is returned:

        - This host is not connected.
        - This host is the leader, but has not listened long enough since it has connected.

        Args:
            own: the latest announcement of this host.
            now: the time now, in seconds of the monotonic clock.

        Returns:
            The assignment; None if this host does not know any yet.

        """
        if self._listening_since is None:
            return self.assignment
        hosts = self.hosts(own, now)
        leader = hosts[0]
        if leader.host != self._host:
            if leader.assignment is not None:
                self.assignment = leader.assignment
        elif now - self._listening_since >= LISTEN_SECONDS:
            self.assignment = assign(
                _ready_hosts(hosts), self.assignment or _announced_assignment(hosts)
            )
        return self.assignment


def _ready_hosts(hosts: Sequence[Announcement]) -> dict[str, dict[str, set[str]]]:
    """Map each queue to its consumers, and each consumer to the hosts where it is ready."""
    ready_hosts: defaultdict[str, defaultdict[str, set[str]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for one in hosts:
        for queue, consumers in one.ready_consumers.items():
            for consumer in consumers:
                ready_hosts[queue][consumer].add(one.host)
    return {queue: dict(consumers) for queue, consumers in ready_hosts.items()}


def _announced_assignment(hosts: Sequence[Announcement]) -> Mapping[str, str]:
    """Return the assignment from which a new leader continues; empty if no host has one."""
    return next((one.assignment for one in hosts if one.assignment), {})
