"""What happens at the moments that landmarks and the adversary choose."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from feedbus.broker_names import WAITING, Role, has_role
from tests.simulation.network import Link, Sending
from tests.simulation.scheduler import SECONDS, Process
from tests.simulation.system import System

SLOW_SENDER_SECONDS = 10.0  # the longest wait for one
SHORT_SECONDS = (0.01, 0.3, 2.0)  # of an outage
STILL_SECONDS = (0.02, 0.3, 2.0, 2.0, 8.0)  # for which a process stands still
SILENT_SECONDS = 1.0  # without heartbeats, feedbus can suspect the message in the handler
KILLED_WITHIN_SECONDS = (0.05, 0.3, 1.0)
LONG_STILL_SECONDS = (7.0, 15.0)
READ_SECONDS = (1.0, 3.0, 8.0)  # another process reads the waiting queues for so long
AWAITED_SECONDS = 10.0  # the longest wait for what another process does
HELD_COUNTS = (2, 4, 8)
MOVE_SECONDS = 30.0  # the longest wait for a move: its old queue has a backlog
SLOW_SECONDS = (1.0, 4.0, 12.0, 25.0)  # deliveries of a slow queue are on their way
LONG_SECONDS = (30.0,)
WAITING_SECONDS = (4.0, 15.0, 30.0)  # deliveries of waiting queues are on their way
ELECTION_SECONDS = (1.0, 4.0)  # queues have no leader
SLOW_QUEUES = 0.4  # the share of the queues of records that are slow together
LONG_OUTAGE_SECONDS = 20.0  # feedbus removes the assignment of a host after 15 s
RECORDS = ("simulated.shard", "simulated.work", "simulated.middle")  # names of queues begin so


class Strikes:
    """Faults of the process whose turn it is, of its connections, and of what it uses."""

    def __init__(self, system: System, chosen: random.Random) -> None:
        """Strike a system; take what is left to chance from a sequence of random numbers."""
        self.system = system
        self._chosen = chosen

    def kill_consumers(self) -> None:
        """Kill the processes of all consumers."""
        self._kill([process for process in self.system.guards if not process.dead])

    def kill(self) -> None:
        """Kill the process whose turn it is."""
        process = self.system.process()
        self._kill([process] if process is not None else [])

    def kill_for_long(self) -> None:
        """Kill the process whose turn it is; a consumer starts again later than usual."""
        process = self.system.process()
        if process is not None:
            self.system.late_starts.add(process.name)
        self.kill()

    def lose_power(self) -> None:
        """Kill the process whose turn it is; the broker notices it late."""
        self.system.network.lost.add(self.system.process())
        self.kill()

    def kill_soon(self) -> None:
        """Kill the process whose turn it is a little later."""
        process, scheduler = self.system.process(), self.system.scheduler
        if process is not None:
            seconds = self._chosen.choice(KILLED_WITHIN_SECONDS)
            scheduler.after(seconds, lambda: scheduler.kill(process))

    def _kill(self, processes: list[Process]) -> None:
        scheduler = self.system.scheduler
        for process in processes:
            scheduler.at(scheduler.now, lambda one=process: scheduler.kill(one))  # type: ignore[misc]
        scheduler.step("is to be killed")

    def stand_still_for_long(self) -> None:
        """Let the process or thread whose turn it is do nothing for a long time."""
        self.stand_still(LONG_STILL_SECONDS)

    def stand_still(self, times: Sequence[float] = STILL_SECONDS) -> None:
        """Let the process or thread whose turn it is do nothing, while the others go on."""
        process, scheduler = self.system.process(), self.system.scheduler
        seconds = self._chosen.choice(times)
        if seconds > SILENT_SECONDS and process is not None:
            self.system.blame(process)
        scheduler.wait("stands still", until=scheduler.now + int(seconds * SECONDS))

    def cut(self) -> None:
        """Cut the connections of the process whose turn it is."""
        for link in self._links():
            link.cut("at a landmark")

    def cut_sending(self) -> None:
        """Cut the connection on which this process sends a part of its next messages."""
        self._sending().is_cut = True

    def send_slowly(self) -> None:
        """Let this process send the second part of its next messages later."""
        self._sending().is_slow = True

    def lose_leaders(self) -> None:
        """Let waiting queues have no leader for a while.

        The broker refuses what this process sends next, and the deliveries of the queues are late.
        """
        self._sending().is_refused = True
        self._slow(self._waiting_queues(), ELECTION_SECONDS)

    def send_slowly_and_die(self) -> None:
        """Send the next messages slowly, and kill the process when they are sent."""
        self._sending().is_slow = True
        self._sending().after = self.kill

    def _sending(self) -> Sending:
        return self.system.network.sending[self.system.process()]

    def cut_acknowledging(self) -> None:
        """Cut the connections of this process between its next acknowledgements."""
        for link in self._links():
            link.cut_acknowledging = True

    def cut_after(self) -> None:
        """Cut the connections of this process when the broker has done the next request."""
        for link in self._links():
            link.cut_after_next = True

    def cancel(self) -> None:
        """Let the broker cancel one of the subscriptions of this process."""
        links = {link.owner: link for link in self._links()}
        found = [each for each in self.system.broker.subscriptions() if each[1] in links]
        if found:
            consumer, owner, queue = self._chosen.choice(found)
            self.system.scheduler.note(f"THE BROKER CANCELS A SUBSCRIPTION TO {queue}")
            links[owner].cancel(consumer)

    def hand_over(self) -> None:
        """Let another process read the waiting queues of this one until it is killed.

        The broker cancels the subscriptions to these queues, and this process stands still.
        """
        scheduler, process, cancelled = self.system.scheduler, self.system.process(), set[str]()
        for consumer, link, queue in self._subscriptions_to_waiting_queues():
            if link.process is process:
                scheduler.note(f"THE BROKER CANCELS A SUBSCRIPTION TO {queue}")
                link.cancel(consumer)
                cancelled.add(queue)

        def kill_readers() -> None:
            for _, link, queue in self._subscriptions_to_waiting_queues():
                if queue in cancelled and link.process is not None:
                    scheduler.kill(link.process)

        seconds = self._chosen.choice(READ_SECONDS)
        scheduler.after(seconds, kill_readers)
        self.stand_still((seconds,))

    def _subscriptions_to_waiting_queues(self) -> list[tuple[int, Link, str]]:
        links = {link.owner: link for link in self.system.network.open_links()}
        return [
            (consumer, links[owner], queue)
            for consumer, owner, queue in self.system.broker.subscriptions()
            if queue.endswith(WAITING) and owner in links
        ]

    def await_slow_sender(self) -> None:
        """Wait until another process has sent only a part of its packs.

        The packs are for one shard. If queues can be full, they can also be for several shards, of
        which one has refused a message of the first part.
        """
        network, scheduler = self.system.network, self.system.scheduler
        network.awaits_slow_sender = True
        network.awaits_one_shard = not self.system.scenario.full or self._chosen.random() < 0.5
        try:
            scheduler.wait(
                "waits for a slow sender",
                until=scheduler.now + int(SLOW_SENDER_SECONDS * SECONDS),
                ready=lambda: network.slow_senders > 0,
            )
        finally:
            network.awaits_slow_sender = False

    def await_deletion(self) -> None:
        """Stand still until another process has deleted a queue of a ring."""
        self._await_change("queue deleted")

    def await_switch(self) -> None:
        """Stand still until another process has completed a switch of the ring."""
        self._await_change("ring switched")

    def await_move(self) -> None:
        """Stand still until another process has moved waiting records since the last switch."""
        self._await_change("records moved", MOVE_SECONDS, count=0)

    def await_held(self) -> None:
        """Stand still until several messages are held. If some are moved together, do it slowly."""
        scheduler, count = self.system.scheduler, self._chosen.choice(HELD_COUNTS)
        self._sending().is_slow = True
        scheduler.wait(
            "stands still: held messages?",
            until=scheduler.now + int(AWAITED_SECONDS * SECONDS),
            ready=lambda: self._count_held() >= count,
        )

    def _count_held(self) -> int:
        sql = "SELECT count(*) FROM ready JOIN queues ON queues.id = queue WHERE name LIKE ?"
        ((count,),) = self.system.broker.tables.read(sql, (f"%.{Role.HELD.value}",))
        return int(count)

    def await_publishing(self) -> None:
        """Stand still until another thread has published rows of the outbox."""
        self._await_change("rows published")

    def _await_change(
        self, kind: str, most_seconds: float = AWAITED_SECONDS, *, count: int | None = None
    ) -> None:
        changes, scheduler = self.system.network.changes, self.system.scheduler
        process = self.system.process()
        if process is not None:
            self.system.blame(process)
        before = changes[kind] if count is None else count
        scheduler.wait(
            f"stands still: {kind}?",
            until=scheduler.now + int(most_seconds * SECONDS),
            ready=lambda: changes[kind] > before,
        )

    def lose_lock(self) -> None:
        """Stand still, and lose the connections meanwhile, so that others get the lock."""
        self.cut()
        self.stand_still()

    def slow_waiting_queues(self) -> None:
        """Let the deliveries of all waiting queues stay on their way for a while."""
        self._slow(self._waiting_queues(), WAITING_SECONDS)

    def slow_new_waiting_queues(self) -> None:
        """Let the deliveries of the waiting queues of the newest ring stay on their way."""
        shards = [each for each in self._queues() if has_role(each, {Role.GENERATION})]
        ends = tuple(f".{each.rpartition('.')[2]}{WAITING}" for each in shards[-1:])
        queues = [each for each in self._waiting_queues() if each.endswith(ends)]
        self._slow(queues, WAITING_SECONDS)

    def slow_held_queues(self) -> None:
        """Let the messages that are held in a switch stay on their way to the process."""
        self._slow([each for each in self._queues() if each.endswith(f".{Role.HELD.value}")])

    def slow_queues(self) -> None:
        """Let the deliveries of some queues stay on their way for a while."""
        queues = [each for each in self._queues() if each.startswith(RECORDS)]
        self._slow([each for each in queues if self._chosen.random() < SLOW_QUEUES])

    def slow_oldest_queues(self) -> None:
        """Let the deliveries of the oldest ring stay on their way while the ring changes again."""
        shards = [each for each in self._queues() if has_role(each, {Role.GENERATION})]
        oldest = {each.rpartition(".")[2] for each in shards[:1]}
        self._slow([each for each in shards if each.rpartition(".")[2] in oldest], LONG_SECONDS)

    def _slow(self, queues: Iterable[str], seconds: Sequence[float] = SLOW_SECONDS) -> None:
        network, scheduler = self.system.network, self.system.scheduler
        until = scheduler.now + int(self._chosen.choice(seconds) * SECONDS)
        network.slow_queues.update(dict.fromkeys(queues, until))

    def _waiting_queues(self) -> list[str]:
        return [each for each in self._queues() if each.endswith(WAITING)]

    def _queues(self) -> list[str]:
        rows = self.system.broker.tables.read("SELECT name FROM queues ORDER BY id")
        return [name for (name,) in rows]

    def lose_broker(self) -> None:
        """Let the broker be unavailable for as long as an assignment to hosts is valid."""
        if not self.system.network.down:
            self.system.network.go_down(LONG_OUTAGE_SECONDS)

    def _links(self) -> list[Any]:
        process = self.system.process()
        return [each for each in self.system.network.open_links() if each.process is process]

    def lose_service(self) -> None:
        """Let the service of the handlers be unavailable for a short time."""
        scheduler = self.system.scheduler
        seconds = self._chosen.choice(SHORT_SECONDS)
        self.system.service_away_until = scheduler.now + int(seconds * SECONDS)

    def lose_service_once(self) -> None:
        """Let the service of the handlers be unavailable for the next record of this process."""
        self.system.without_service.add(self.system.process())

    def lose_answer(self) -> None:
        """Lose the answer to the commit of the current transaction."""
        self.system.database.lose_answer = True
