"""Small systems for tests: a topology over an embedded broker and store, and a way to run it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marshmallow import EXCLUDE, Schema, fields

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.bus import Bus, LiveBus
from feedbus.dead_letters import letters
from feedbus.errors import BrokerOutage
from feedbus.generations import topology_setup
from feedbus.generations.queue_depths import depths_of
from feedbus.handling.handlers import Handler
from feedbus.handling.routes import HandlerRoutes
from feedbus.metrics import Metrics
from feedbus.process.watchdog import Note
from feedbus.runner import CrashGuard, Limits, Runner
from feedbus.store import NoStore, Store
from feedbus.store.peewee import PeeweeStore, bind, bound
from feedbus.topology import Exchange, Queue, StoreOptions, Topology
from feedbus.urls import BrokerUrl, parse_broker_url, parse_management_url, parse_store_url

NEAR_SECONDS = 0.5
MOST_RUNS = 20


class Numbered(Schema):
    """The message of these systems."""

    n = fields.Integer(strict=True, required=True)
    text = fields.String()

    class Meta:
        """Foreign fields are left out."""

        unknown = EXCLUDE


@dataclass(slots=True)
class System:
    """A running topology in a folder."""

    topology: Topology
    seen: list[Any] = field(default_factory=list)
    store: Store = field(default_factory=bound)

    @classmethod
    def at(
        cls,
        folder: Path,
        *queues: Queue,
        broker_url: str | BrokerUrl = "",
        store_url: str = "",
        management_url: str = "",
        pack: int = 0,
        stored: bool = True,
    ) -> System:
        """Declare a system of these queues and open its store, which it then may not use."""
        topology = Topology(
            name=f"test-{uuid.uuid4().hex[:8]}",
            path=folder / "topology.toml",
            broker_url=broker_url
            if isinstance(broker_url, BrokerUrl)
            else parse_broker_url(broker_url or f"sqlite:///{folder}/broker.db"),
            store=StoreOptions(url=parse_store_url(store_url or f"sqlite:///{folder}/store.db")),
            exchanges={
                "work": Exchange("work", "direct", pack),
                "other": Exchange("other", "topic", pack),
                "ring": Exchange("ring", "x-consistent-hash", pack),
            },
            queues={each.name: each for each in queues},
            var=folder / "var",
            management_url=parse_management_url(management_url) if management_url else None,
        )
        bind(PeeweeStore(topology.store_url))
        bound().set_up()
        topology_setup.set_up(topology)
        uses_store = stored or any(each.once for each in queues)
        return cls(topology, store=bound() if uses_store else NoStore())

    def bus(self) -> LiveBus:
        """Return a bus for a program outside of the system."""
        return LiveBus(self.topology)

    def run(
        self,
        function: Callable[[Any, Any], None],
        name: str = "work",
        *,
        batch: bool = False,
        idle_seconds: float = 0.3,
        metrics: Metrics | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_hold: Callable[[str], None] = lambda _: None,
        **limits: Any,
    ) -> str:
        """Run a consumer until it has been idle for a while; return why it ended.

        On a machine under load a consumer can be idle although messages wait, so it is run again
        while its queue has messages, or messages whose next attempt is near, unless it still held.
        """
        limits = {"idle_timeout_seconds": idle_seconds, **limits}
        reason, holds = "", list[str]()

        def note_hold(text: str) -> None:
            holds.append(text)
            on_hold(text)

        calls = {"on_ready": on_ready, "on_hold": note_hold}
        for _ in range(MOST_RUNS):
            with self._runner(function, name, batch, metrics, limits, **calls) as runner:
                reason = runner.run()
            still_held = bool(holds) and holds[-1] != ""
            if still_held or not reason.startswith("idle") or not self._has_more(name):
                break
        return reason

    def _has_more(self, name: str) -> bool:
        """Whether messages wait for a consumer, or for an attempt of it that is near."""
        names, consumer = Names(self.topology), self.topology.consumer(name)
        delays = [each for each in consumer.queue.retry.delays_seconds if each <= NEAR_SECONDS]
        try:
            with broker.connect(self.topology) as connection:
                waiting = [
                    broker.count_messages(
                        connection, names.retry_queue(consumer.queue, round(seconds * 1000))
                    )
                    for seconds in delays
                ]
                ready = depths_of(connection, self.topology)[name].ready
        except BrokerOutage:
            return False
        return any(waiting) or ready > 0

    def run_all(self, function: Callable[[Any, Any], None], **options: Any) -> None:
        """Run every consumer in a thread of its own until each has ended; options are of run."""
        threads = [
            threading.Thread(target=self.run, args=(function, name), kwargs=options)
            for name in self.topology.consumers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @contextmanager
    def running(
        self,
        function: Callable[[Any, Any], None],
        name: str = "work",
        *,
        batch: bool = False,
        metrics: Metrics | None = None,
        assigned: Callable[[], bool] = lambda: True,
    ) -> Iterator[threading.Thread]:
        """Run a consumer in a thread until the block ends."""
        with self._runner(function, name, batch, metrics, {}, assigned=assigned) as runner:
            thread = threading.Thread(target=runner.run)
            thread.start()
            try:
                yield thread
            finally:
                runner.stop()
                thread.join()

    @contextmanager
    def _runner(
        self,
        function: Callable[[Any, Any], None],
        name: str,
        batch: bool,
        metrics: Metrics | None,
        limits: dict[str, Any],
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_hold: Callable[[str], None] = lambda _: None,
        assigned: Callable[[], bool] = lambda: True,
    ) -> Iterator[Runner]:
        with CrashGuard(self.topology.var / "run" / f"{name}.handler") as crash_guard:
            yield Runner(
                self.topology,
                self.topology.consumer(name),
                HandlerRoutes([Handler(function, Numbered, batch)]),
                limits=Limits(**limits),
                metrics=metrics or Metrics.none(),
                crash_guard=crash_guard,
                store=self.store,
                on_ready=on_ready,
                on_hold=on_hold,
                is_assigned=assigned,
            )

    def pauses(self, name: str = "work") -> bool:
        """Whether messages are in the handler, and its time is not counted now."""
        with (self.topology.var / "run" / f"{name}.handler").open("rb") as file:
            note = Note.read(file.fileno())
        return note is not None and note.until is None and note.message_ids != ()

    def note(self, message: dict[str, Any], _bus: Any = None) -> None:
        """Handle a message by noting its number."""
        self.seen.append(message["n"])

    def dead(self, name: str = "work") -> list[letters.DeadLetter]:
        """Return the dead letters of a queue."""
        with letters.open_channel(self.topology) as channel:
            chosen = self.topology.queues[name]
            return [letter for _, letter in letters.letters(channel, self.topology, chosen)]

    def purge_dead(self, name: str = "work") -> None:
        """Drop the dead letters of a queue."""
        with letters.open_channel(self.topology) as channel:
            channel.queue_purge(Names(self.topology).dead(self.topology.queues[name]))

    def ready(self) -> dict[str, int]:
        """Return the number of waiting messages of each consumer."""
        with broker.connect(self.topology) as connection:
            depths = depths_of(connection, self.topology)
        return {name: found.ready for name, found in depths.items()}

    def publish(self, numbers: Sequence[int], exchange: str = "work", key: str = "") -> None:
        """Publish numbered messages."""
        with self.bus() as bus:
            bus.publish_many(exchange, [({"n": number}, key) for number in numbers])

    def changed(self, *queues: Queue, **exchanges: Exchange) -> Topology:
        """Return the topology with other queues, and with more exchanges."""
        return replace(
            self.topology,
            queues={each.name: each for each in queues},
            exchanges={**self.topology.exchanges, **exchanges},
        )

    def reshaped(self, *queues: Queue) -> System:
        """Return a system of other queues on the same broker, its rings made current."""
        changed = self.changed(*queues)
        topology_setup.set_up(changed)
        return System(changed, self.seen, self.store)


def publish_confirmed(channel: Any, message: Any, exchange: str, routing_key: str) -> None:
    """Publish as a foreign program, and return when the broker has stored the message.

    Without a confirm, what another channel reads may not contain the message yet. The embedded
    broker stores each message before the call returns.
    """
    publish = getattr(channel, "basic_publish_confirm", channel.basic_publish)
    publish(message, exchange, routing_key)


def publishing(system: System) -> Callable[[dict[str, Any], Bus], None]:
    """Return a handler that records a message and publishes it to the next queue."""

    def effect(message: dict[str, Any], bus: Bus) -> None:
        system.note(message)
        bus.publish("other", message, "n")

    return effect
