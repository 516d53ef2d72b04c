"""Check whether deliveries arrive at the shards that own their keys, and report if not."""

from __future__ import annotations

import math
from collections.abc import Iterable

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.errors import Outage, UsageError
from feedbus.generations import switch
from feedbus.generations.ring_state import RingState
from feedbus.logs import EventLog
from feedbus.metrics import ConsumerMetrics
from feedbus.ring import Ring
from feedbus.topology import Generation, Topology
from feedbus.wire import Delivery

events = EventLog(__name__)

REPORT_INTERVAL_SECONDS = 10.0  # between two attempts to record that a ring must be repaired


class MisplacementCheck:
    """Checks whether the shard that receives a message owns the key of the message.

    When a broker restarts, it can bind the queues of a ring in another order than feedbus has bound
    them. Then the records of a key reach another shard than before. No operation fails in this
    case: only the keys of the arriving messages show the error.

    Each consumer process has one MisplacementCheck object for its whole run.
    """

    def __init__(self, topology: Topology, metrics: ConsumerMetrics) -> None:
        """Create the check; it checks nothing before use_rings().

        Args:
            topology: the topology of the system.
            metrics: counts the misplaced records.

        """
        self._topology = topology
        self._metrics = metrics
        self._names = Names(topology)
        # For each queue on the broker, its generation and the name of its shard.
        self._members: dict[str, tuple[Generation, str]] = {}
        self._rings: dict[Generation, Ring] = {}
        self._reported: set[Generation] = set()  # the rings whose wrong order was reported
        self._clock = broker.clock(topology)
        self._next_report_at = -math.inf

    def use_rings(self, states: Iterable[RingState]) -> None:
        """From now on, check the messages of the current and the old rings in these states.

        The runner calls this each time that it connects. Rings that do not hash the routing key are
        not checked.

        Args:
            states: the states of the rings. A state names the generations that still have queues.

        """
        for state in states:
            if not self._topology.exchanges[state.current.exchange].hashes_routing_keys:
                continue
            for generation in (state.current, *state.draining):
                self._rings.setdefault(generation, Ring.of(generation.members))
                for member, _ in generation.members:
                    queue = self._names.member(generation, member)
                    self._members[queue] = (generation, member)

    def check(self, queue: str, delivery: Delivery) -> None:
        """Count a delivery that came to a wrong shard; log the first one of each ring.

        A shard is wrong if it does not own the key of the message.

        This method is called with the first delivery of each batch.

        Args:
            queue: the name of the queue on the broker that has delivered the message.
            delivery: the delivery.

        """
        if self._is_misplaced(queue, delivery):
            self._metrics.misplaced()

    def _is_misplaced(self, queue: str, delivery: Delivery) -> bool:
        """Whether a delivery was received from another queue than the one that owns its key.

        The first such delivery of a ring is reported.

        Only messages that the ring has routed are checked. If a publisher has put a message
        directly into a queue, the message is not checked. The keys of the records in a pack, which
        are in the body of the message, are not checked either.
        """
        if queue not in self._members:
            return False
        generation, member = self._members[queue]
        # Publishers publish to the entry, and a switch publishes the held messages to the ring.
        exchanges = (self._names.exchange(generation.exchange), self._names.ring(generation))
        if delivery.exchange not in exchanges:
            return False
        key = delivery.routing_key
        owner = self._rings[generation].route(key)
        if owner == member:
            return False
        if generation not in self._reported and self._clock.monotonic() >= self._next_report_at:
            self._reported.add(generation)
            self._report(generation, queue, key, owner)
        return True

    def _report(self, generation: Generation, queue: str, key: str, owner: str) -> None:
        """Log a misplaced delivery, and record in the ring's state that the ring must be repaired.

        Args:
            generation: the generation of the ring.
            queue: the queue that has delivered the message.
            key: the key of the message.
            owner: the shard that owns the key.

        """
        events.error(
            "misplaced",
            f"a message with key '{key}' was routed to queue {queue} instead of {owner}: the broker"
            f" has rebuilt the ring of exchange {generation.exchange} in another order, so messages"
            " of one key may be handled out of order; run `feedbus apply` to repair the ring",
            queue=queue,
            exchange=generation.exchange,
        )
        try:
            with (
                broker.connect(self._topology) as connection,
                broker.outage(connection, self._topology.broker_url),
                broker.locked(connection, self._topology, wait_seconds=0.0),
            ):
                switch.record_disorder(connection.channel(), self._topology, generation)
        except (Outage, UsageError) as error:
            self._reported.discard(generation)
            self._next_report_at = self._clock.monotonic() + REPORT_INTERVAL_SECONDS
            events.warning(
                "misplaced_not_recorded",
                "do not run `feedbus apply` yet: feedbus could not record that the ring of exchange"
                f" {generation.exchange} must be repaired; it tries again at the next message on a"
                " wrong shard; run `feedbus apply` after a line `misplaced` that this line does not"
                " follow",
                exchange=generation.exchange,
                error=error,
            )
