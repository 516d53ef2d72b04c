"""What goes wrong in a simulated system: killed processes, cut connections, outages."""

from __future__ import annotations

from tests.simulation.scenario import MOST_CRASHES
from tests.simulation.scheduler import SECONDS
from tests.simulation.system import System

KINDS = (
    *("kill", "kill", "kill", "cut", "cut", "cut", "cut after", "cut after", "cut after"),
    *("restart", "restart", "pause", "service", "service", "cancel", "cancel"),
)
OF_STORES = ("store", "answer", "answer")  # besides, where there is a store
FEW_SHARE = 0.5
FEW = (1, 2, 3)  # kinds of faults in half of the seeds, many of a rare kind then
KILLED_SHARE = 0.5  # of the outages: a process is killed while it waits for their end


class Faults:
    """The faults of one seed, as many as its scenario says."""

    def __init__(self, system: System) -> None:
        """Strike a system."""
        self._system = system
        self._left = system.scenario.faults
        self._kinds = list((*KINDS, *OF_STORES) if system.scenario.stored else KINDS)
        chosen = system.scheduler.random
        if chosen.random() < FEW_SHARE:
            few = chosen.sample(sorted({*self._kinds}), chosen.choice(FEW))
            self._kinds = [kind for kind in self._kinds if kind in few]

    def strike(self) -> None:
        """Let something go wrong now and then."""
        system = self._system
        chosen = system.scheduler.random
        if not self._left or not system.network.faulty or chosen.random() > 0.03:
            return
        self._left -= 1
        {
            "kill": self._kill,
            "cut": self._cut,
            "cut after": self._cut_after,
            "restart": self._restart_broker,
            "pause": self._pause,
            "cancel": self._cancel,
            "service": self._lose_service,
            "store": self._lose_store,
            "answer": self._lose_answer,
        }[chosen.choice(self._kinds)]()

    def _cut(self) -> None:
        """Cut a connection."""
        links = self._system.network.open_links()
        if links:
            self._system.scheduler.random.choice(links).cut("by the network")

    def _cut_after(self) -> None:
        """Cut a connection when the broker has carried out the next request."""
        links = self._system.network.open_links()
        if links:
            self._system.scheduler.random.choice(links).cut_after_next = True

    def _lose_service(self) -> None:
        """Let a service that all handlers use be unavailable."""
        self._system.service_away_until = self._moment(self._outage(0.1, 1.0, 10.0))
        self._system.scheduler.note("THE SERVICE OF THE HANDLERS IS AWAY", by="-")

    def _lose_store(self) -> None:
        """Let the store be unavailable."""
        self._system.database.away_until = self._moment(self._outage(0.0, 1.0, 10.0))
        self._system.scheduler.note("THE STORE IS AWAY", by="-")

    def _lose_answer(self) -> None:
        """Lose the answer to a commit."""
        self._system.database.lose_answer = True
        self._system.scheduler.note("THE ANSWER TO THE NEXT COMMIT IS LOST", by="-")

    def _cancel(self) -> None:
        """Let the broker cancel a subscription.

        feedbus may take a record that is in the handler for the reason. So this is for messages
        that have to end many processes before they become dead letters.
        """
        system = self._system
        if system.scenario.delivery_limit < MOST_CRASHES:
            return
        links = {link.owner: link for link in system.network.open_links()}
        subscriptions = [each for each in system.broker.subscriptions() if each[1] in links]
        if subscriptions:
            consumer, owner, queue = system.scheduler.random.choice(subscriptions)
            system.scheduler.note(f"THE BROKER CANCELS A SUBSCRIPTION TO {queue}", by="-")
            links[owner].cancel(consumer)

    def _outage(self, *seconds: float) -> float:
        """Return how long an outage takes, in which a process is killed now and then."""
        scheduler = self._system.scheduler
        chosen = scheduler.random
        length = chosen.choice(seconds)
        if chosen.random() < KILLED_SHARE:
            scheduler.after(length * chosen.random(), self._kill)
        return length

    def _kill(self) -> None:
        """Kill a process."""
        scheduler = self._system.scheduler
        if scheduler.processes:
            scheduler.kill(scheduler.random.choice(scheduler.processes))

    def _moment(self, seconds: float) -> int:
        """Return the moment that is so many seconds from now."""
        return self._system.scheduler.now + int(seconds * SECONDS)

    def _pause(self) -> None:
        """Let a process do nothing for a while."""
        scheduler = self._system.scheduler
        if not scheduler.processes:
            return
        process = scheduler.random.choice(scheduler.processes)
        until = self._moment(scheduler.random.choice((0.5, 10.0, 60.0)))
        scheduler.note("IS PAUSED", by=process.name)
        # feedbus may take the message in the handler for the reason of missing heartbeats.
        self._system.blame(process.owner or process)
        ready, at = process.ready, process.until
        process.ready = None
        process.until = None if at is None else max(at, until)
        if ready is not None:
            process.ready = lambda: scheduler.now >= until and ready()
            scheduler.at(until, lambda: None)  # the time at which to look again

    def _restart_broker(self) -> None:
        """Cut every connection, and refuse others for a while; the processes may start anew."""
        scheduler = self._system.scheduler
        seconds = self._outage(0.1, 3.0, 20.0)
        rebooted = scheduler.random.random() < 0.3

        def start_all() -> None:
            for process in list(scheduler.processes) if rebooted else ():
                scheduler.kill(process)

        self._system.network.go_down(seconds, start_all)
