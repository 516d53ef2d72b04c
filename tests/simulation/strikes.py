"""What happens at the moments that landmarks and the adversary choose."""

from __future__ import annotations

import random
from typing import Any

from tests.simulation.network import Sending
from tests.simulation.scheduler import SECONDS, Process
from tests.simulation.system import System

SLOW_SENDER_SECONDS = 10.0  # the longest wait for one
SHORT_SECONDS = (0.01, 0.3, 2.0)  # of an outage
STILL_SECONDS = (0.02, 0.3, 2.0, 2.0, 8.0)  # for which a process stands still
SILENT_SECONDS = 1.0  # without heartbeats, feedbus can suspect the message in the handler
KILLED_WITHIN_SECONDS = (0.05, 0.3, 1.0)


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

    def stand_still(self) -> None:
        """Let the process whose turn it is do nothing, while the others go on."""
        process, scheduler = self.system.process(), self.system.scheduler
        seconds = self._chosen.choice(STILL_SECONDS)
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

    def await_slow_sender(self) -> None:
        """Wait until another process has sent only a part of its packs for one shard."""
        network, scheduler = self.system.network, self.system.scheduler
        network.awaits_slow_sender = True
        try:
            scheduler.wait(
                "waits for a slow sender",
                until=scheduler.now + int(SLOW_SENDER_SECONDS * SECONDS),
                ready=lambda: network.slow_senders > 0,
            )
        finally:
            network.awaits_slow_sender = False

    def _links(self) -> list[Any]:
        process = self.system.process()
        return [each for each in self.system.network.open_links() if each.process is process]

    def lose_service(self) -> None:
        """Let the service of the handlers be unavailable for a short time."""
        scheduler = self.system.scheduler
        seconds = self._chosen.choice(SHORT_SECONDS)
        self.system.service_away_until = scheduler.now + int(seconds * SECONDS)

    def lose_answer(self) -> None:
        """Lose the answer to the commit of the current transaction."""
        self.system.database.lose_answer = True
