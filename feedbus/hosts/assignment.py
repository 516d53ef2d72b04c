"""The assignment of shards to hosts: as even as possible, with as few moves as possible."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping

# Maps each queue to its consumers, and each of these consumers to the hosts that can run it.
ReadyHosts = Mapping[str, Mapping[str, Collection[str]]]
MIN_DIFFERENCE = 2  # a move makes two hosts more even only if their numbers differ by at least this


def assign(ready_hosts: ReadyHosts, previous: Mapping[str, str]) -> dict[str, str]:
    """Return the host of each consumer; the leader of the hosts calls it again and again.

    This is a pure function: the same arguments give the same result on each host.

    - Hosts that can run all consumers of a queue get equal numbers of these consumers, or numbers
      that differ by one. The same is true for the consumers of all queues together.
    - A consumer moves to another host only if its host has gone, if its host cannot run it, or if
      the move makes the numbers more even.
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
        """Move a consumer of a queue to a host that has at least two fewer consumers of the queue.

        Returns:
            Whether a consumer was moved.

        """
        return self._move(queue, min_difference=MIN_DIFFERENCE, min_total_difference=None)

    def level_all(self, queue: str) -> bool:
        """Move a consumer of a queue to a host that has at least two fewer consumers of all queues.

        This host must also have at least one fewer consumer of this queue, so that the numbers of
        the queue stay even.

        Returns:
            Whether a consumer was moved.

        """
        return self._move(
            queue, min_difference=MIN_DIFFERENCE - 1, min_total_difference=MIN_DIFFERENCE
        )

    def _move(self, queue: str, *, min_difference: int, min_total_difference: int | None) -> bool:
        """Make the most useful move of a consumer of a queue; return whether there is a move.

        Args:
            queue: the name of the queue.
            min_difference: the smallest allowed difference between the old host's and the new
                host's number of consumers of the queue.
            min_total_difference: the same for the consumers of all queues; None for no condition.

        """
        loads, totals = self._loads[queue], self._totals
        best: tuple[int, int, str, str] | None = None
        for consumer, hosts in self._ready_hosts[queue].items():
            giver = self.host_of.get(consumer)
            if giver is None:
                continue
            for taker in hosts:
                difference = loads[giver] - loads[taker]
                in_all = totals[giver] - totals[taker]
                if difference < min_difference:
                    continue
                if min_total_difference is not None and in_all < min_total_difference:
                    continue
                move = (difference, in_all, consumer, taker)
                if best is None or _order(move) < _order(best):
                    best = move
        if best is None:
            return False
        self.assign(queue, best[2], best[3])
        return True

    def _rank(self, queue: str, host: str) -> tuple[int, int, bytes]:
        """Return the sort key of a host; the one with the fewest consumers has the smallest key."""
        return self._loads[queue][host], self._totals[host], _digest(queue, host)


def _order(move: tuple[int, int, str, str]) -> tuple[int, int, bytes]:
    """Return the sort key of a move; the most useful move has the smallest key.

    Args:
        move: how many more consumers of the queue the old host has than the new one, the same for
            all queues, the consumer, the new host.

    """
    difference, in_all, consumer, taker = move
    return -difference, -in_all, _digest(consumer, taker)


def _digest(one: str, other: str) -> bytes:
    """Return a digest of two names.

    The digest decides between equally good hosts or moves: each host computes the same digest, and
    each pair of names has a different one.
    """
    return hashlib.sha256(f"{one}\0{other}".encode()).digest()
