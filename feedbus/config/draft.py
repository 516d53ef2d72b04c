"""The draft: the loaded values of topology.toml. The checks and then build() read it.

In the draft, each queue also has the options that it inherits from [defaults.queue].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from feedbus.config.key_paths import KeyPath, lookup
from feedbus.config.problems import Fault, Report

Faults = Iterator[tuple[KeyPath, Fault]]  # the faults of a check, each with the path of its value
Options = dict[str, Any]  # the loaded options of a table

RING = "x-consistent-hash"
INHERITED = ("defaults", "queue")  # the path of the options that queues inherit
RING_ONLY = ("shards", "weight", "weights")  # options that need a ring
# Options about the declaration and the bindings of a queue. An external queue cannot have them,
# because another system declares it.
DECLARING = (
    *("exchange", "routing_keys", *RING_ONLY, "type", "single_active_consumer"),
    *("message_ttl", "max_length", "overflow", "arguments"),
)
# Maps options of DECLARING to their keys in the loaded values, if the keys differ from the options.
LOADED_AS = {"message_ttl": "message_ttl_seconds"}


@dataclass(slots=True)
class Draft:
    """The values of topology.toml that could be loaded; the faults of other values are reported.

    config.load() makes one Draft for each file that it reads. The checks read the Draft, and then
    build() makes the Topology from it.

    Attributes:
        loaded: the loaded values by table and option, without invalid values.
        report: gets the faults that the checks find.
        queues: maps each queue to its loaded options, including inherited ones.

    """

    loaded: Mapping[str, Any]
    report: Report
    queues: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Add to each queue the options of [defaults.queue] that this kind of queue can have.

        Report an inherited option that no queue can have.
        """
        inherited = self.loaded.get("defaults", {}).get("queue", {})
        dropped: dict[str, list[str]] = {}
        for name, own in self.loaded.get("queues", {}).items():
            options = {**inherited, **own}
            for option, reason in self._misfits(options):
                loaded_as = LOADED_AS.get(option, option)
                if loaded_as not in own:  # in the queue's own table it is a fault, see misfits()
                    del options[loaded_as]
                    dropped.setdefault(option, []).append(reason)
            self.queues[name] = options
        for option, reasons in dropped.items():
            loaded_as = LOADED_AS.get(option, option)
            if not any(loaded_as in options for options in self.queues.values()):
                self.report.add((*INHERITED, option), Fault(message=reasons[0], at_key=True))

    def exchange_type(self, options: Mapping[str, Any]) -> str | None:
        """Return the type of a queue's exchange; None if the exchange or its type is invalid.

        Args:
            options: the loaded options of the queue.

        Returns:
            A type of RabbitMQ, such as "topic" or "x-consistent-hash".

        """
        exchange = self.loaded.get("exchanges", {}).get(options.get("exchange"), {})
        found = exchange.get("type")
        return found if isinstance(found, str) else None

    def queue_type(self, queue: str) -> str | None:
        """Return the type of a queue, "classic" by default, or None if the type is invalid.

        Args:
            queue: the name of the queue.

        """
        for table in (("queues", queue), INHERITED):
            if self.report.has((*table, "type")):
                found = lookup(self.loaded, (*table, "type"))
                return found if isinstance(found, str) else None
        return "classic"

    def at(self, queue: str, *keys: str | int) -> KeyPath:
        """Return the path of a queue's option in topology.toml, at which a fault is reported.

        The path is in the queue's table. If only [defaults.queue] sets the option, the path is in
        [defaults.queue].

        Args:
            queue: the name of the queue.
            keys: the name of the option, and the keys of a value within it.

        """
        own: KeyPath = ("queues", queue, *keys)
        if self.report.has(own[:3]) or not self.report.has((*INHERITED, keys[0])):
            return own
        return (*INHERITED, *keys)

    def is_set(self, queue: str, option: str) -> bool:
        """Whether topology.toml sets an option for a queue, even if the value is invalid.

        Args:
            queue: the name of the queue.
            option: the name of the option, which [defaults.queue] can set, too.

        """
        return self.report.has(("queues", queue, option)) or self.report.has((*INHERITED, option))

    def misfits(self, queue: str) -> Iterator[tuple[str, str]]:
        """Yield the options that a queue sets and cannot have, each with the reason.

        Examples are `shards` without a ring, and declaration options of an external queue.

        Args:
            queue: the name of the queue.

        Yields:
            The name of the option, and the reason as a text for the user.

        """
        yield from self._misfits(self.queues[queue])

    def _misfits(self, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield each option that a queue with these options cannot have, with the reason."""
        if options.get("external"):
            for option in DECLARING:
                if LOADED_AS.get(option, option) in options:
                    yield (
                        option,
                        "has no effect with external = true: another system declares the queue",
                    )
            return
        kind = self.exchange_type(options)
        if kind not in {None, RING}:
            for option in RING_ONLY:
                if option in options:
                    reason = f"has no effect on an exchange of type {kind}: only {RING} has a ring"
                    yield option, reason
        if kind in {"fanout", RING} and "routing_keys" in options:
            means = (
                "every queue gets every message"
                if kind == "fanout"
                else "the hash of the routing key selects the shard"
            )
            yield "routing_keys", f"has no effect on an exchange of type {kind}: {means}"
