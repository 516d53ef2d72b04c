"""Assign shards to hosts: numbers as equal as possible, with as few moves as possible."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

# Maps each queue to its consumers, and each of these consumers to the hosts that can run it.
ReadyHosts = Mapping[str, Mapping[str, Collection[str]]]
# A move makes the numbers of two hosts more equal only if the numbers differ by at least this.
MIN_DIFFERENCE = 2


def assign(ready_hosts: ReadyHosts, previous: Mapping[str, str]) -> dict[str, str]:
    """Return the host of each consumer.

    The leader, the host that has run longest, calls the function each second. This is a pure
    function: the same arguments give the same result on each host.

    - Hosts that can run all consumers of a queue get equal numbers of these consumers, or numbers
      that differ by one. The same is true for the consumers of all queues together.
    - A consumer moves to another host only if its host has gone, if its host cannot run it, or if
      the move makes the numbers more equal.
    - If every host can run every consumer, the smallest possible number of consumers of each queue
      moves.

    Args:
        ready_hosts: maps each queue to its consumers, and each of these consumers to the hosts that
            can run it.
        previous: maps each consumer to its host until now.

    Returns:
        Maps each consumer to its host, without the consumers that no host can run.

    Example:
        >>> ready_hosts = {"feed": {"feed_0": {"a", "b"}, "feed_1": {"a", "b"}}}
        >>> sorted(assign(ready_hosts, {"feed_0": "a", "feed_1": "a"}).values())
        ['a', 'b']

    """
    distribution = _Distribution(ready_hosts)
    for queue, consumers in sorted(ready_hosts.items()):
        for consumer, hosts in consumers.items():
            if previous.get(consumer) in hosts:
                distribution.assign(queue, consumer, previous[consumer])
    for queue, consumers in sorted(ready_hosts.items()):
        for consumer in sorted(consumers.keys() - distribution.host_of.keys()):
            distribution.assign_to_best(queue, consumer)
    for queue in sorted(ready_hosts):
        while distribution.level(queue):
            pass
    while any(distribution.level_all(queue) for queue in sorted(ready_hosts)):
        pass
    return distribution.host_of


class _Distribution:
    """An assignment while it is being computed."""

    def __init__(self, ready_hosts: ReadyHosts) -> None:
        self._ready_hosts = ready_hosts
        # For each queue, how many of its consumers each host has.
        self._loads: dict[str, Counter[str]] = {queue: Counter() for queue in ready_hosts}
        self._totals: Counter[str] = Counter()  # how many consumers of all queues each host has
        self.host_of: dict[str, str] = {}

    def assign(self, queue: str, consumer: str, host: str) -> None:
        """Assign a consumer of a queue to a host; if it has another host, move it."""
        before = self.host_of.get(consumer)
        if before is not None:
            self._loads[queue][before] -= 1
            self._totals[before] -= 1
        self.host_of[consumer] = host
        self._loads[queue][host] += 1
        self._totals[host] += 1

    def assign_to_best(self, queue: str, consumer: str) -> None:
        """Assign a consumer of a queue to the host that has the fewest consumers of this queue.

        Do nothing if no host can run the consumer.
        """
        hosts = self._ready_hosts[queue][consumer]
        if hosts:
            self.assign(queue, consumer, min(hosts, key=lambda host: self._rank(queue, host)))

    def level(self, queue: str) -> bool:
        """Move a consumer of a queue if another host has at least two fewer consumers of the queue.

        Returns:
            Whether a consumer was moved.

        """
        return self._move(queue, min_difference=MIN_DIFFERENCE, min_total_difference=None)

    def level_all(self, queue: str) -> bool:
        """Move a consumer of a queue if another host has at least two fewer consumers in total.

        The total counts the consumers of all queues. The new host must also have at least one fewer
        consumer of this queue than the old host, so that the numbers of the queue do not become
        less equal.

        Returns:
            Whether a consumer was moved.

        """
        return self._move(
            queue, min_difference=MIN_DIFFERENCE - 1, min_total_difference=MIN_DIFFERENCE
        )

    def _move(self, queue: str, *, min_difference: int, min_total_difference: int | None) -> bool:
        """Move one consumer of a queue to another host; return whether a consumer was moved.

        Of the allowed moves, make the move between the two hosts whose numbers of consumers of the
        queue differ most.

        Args:
            queue: the name of the queue.
            min_difference: a move is allowed if the old host has at least this many more consumers
                of the queue than the new host.
            min_total_difference: a second condition: the old host must also have at least this many
                more consumers of all queues together. None for no second condition.

        """
        loads, totals = self._loads[queue], self._totals
        best: tuple[int, int, str, str] | None = None
        for consumer, hosts in self._ready_hosts[queue].items():
            old_host = self.host_of.get(consumer)
            if old_host is None:
                continue
            for new_host in hosts:
                difference = loads[old_host] - loads[new_host]
                total_difference = totals[old_host] - totals[new_host]
                if difference < min_difference:
                    continue
                if min_total_difference is not None and total_difference < min_total_difference:
                    continue
                move = (difference, total_difference, consumer, new_host)
                if best is None or _order(move) < _order(best):
                    best = move
        if best is None:
            return False
        self.assign(queue, best[2], best[3])
        return True

    def _rank(self, queue: str, host: str) -> tuple[int, int, bytes]:
        """Return the sort key of a host; the fewer consumers it has, the smaller the key is."""
        return self._loads[queue][host], self._totals[host], _digest(queue, host)


def _order(move: tuple[int, int, str, str]) -> tuple[int, int, bytes]:
    """Return the sort key of a move; the move between the most unequal hosts has the smallest key.

    Args:
        move: a tuple of four values. The first is how many more consumers of the queue the old
            host has than the new host. The second is the same for the consumers of all queues. The
            others are the name of the consumer and the id of the new host.

    """
    difference, total_difference, consumer, new_host = move
    return -difference, -total_difference, _digest(consumer, new_host)


def _digest(one: str, other: str) -> bytes:
    """Return a digest of two names.

    The digest decides between equally good hosts or moves. Each host computes the same digest for a
    pair of names, and different pairs have different digests.
    """
    return hashlib.sha256(f"{one}\0{other}".encode()).digest()
