"""Send messages to the broker; packs whose generation has passed are taken apart and sent anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from feedbus import broker
from feedbus.broker import generations
from feedbus.bus.encoding import Encoder
from feedbus.bus.publisher import RECORD_COUNT, WINDOW, Outgoing, Publisher, Refusal
from feedbus.errors import Outage, PublishError, Unroutable
from feedbus.metrics import Metrics, Outcome
from feedbus.records.packs import PACK
from feedbus.topology import Topology


class Sender:
    """A connection for publishing alone, opened when there is something to send."""

    def __init__(self, topology: Topology, metrics: Metrics | None = None) -> None:
        """Connect at the first send."""
        self.encoder = Encoder(topology)
        self._topology = topology
        self._metrics = metrics
        self._connection: Any = None
        self._publisher: Publisher | None = None

    def send(self, messages: Iterable[Outgoing]) -> list[Refusal]:
        """Send messages in order and return those that the broker did not take.

        Raises:
            Outage: the broker is away; what was not confirmed may have arrived all the same.

        """
        refusals: list[Refusal] = []
        left = iter(messages)
        while window := list(islice(left, WINDOW)):
            refusals += self._send_window(window)
        return refusals

    def _send_window(self, messages: Sequence[Outgoing]) -> list[Refusal]:
        try:
            publisher = self._open()
            with broker.outage(self._connection, self._topology.broker_url):
                refusals = publisher.send(messages)
                stale = {id(refusal.message) for refusal in refusals if _stale(refusal)}
                if stale:
                    refusals = [refusal for refusal in refusals if not _stale(refusal)]
                    # In the order in which they were sent, whatever order they came back in.
                    packs = [message for message in messages if id(message) in stale]
                    refusals += publisher.send(self._apart(packs))
        except Outage:
            self._count(messages, "unconfirmed", [])
            self.close()
            raise
        self._count(messages, "confirmed", refusals)
        return refusals

    def channel(self) -> Any:
        """Return the publishing channel, for declarations that a send needs first."""
        return self._open().channel

    def close(self) -> None:
        """Close the connection; the next send opens another."""
        connection, self._connection, self._publisher = self._connection, None, None
        if connection is None:
            return
        try:
            connection.close()
        except broker.connection_errors(connection):
            connection.collapse()

    def _open(self) -> Publisher:
        if self._publisher is None:
            self._connection = broker.connect(self._topology)
            with broker.outage(self._connection, self._topology.broker_url):
                self._publisher = Publisher(self._connection)
        return self._publisher

    def _apart(self, packs: Sequence[Outgoing]) -> list[Outgoing]:
        """Return the packs' records as plain messages, and learn the generations of now."""
        for state in generations.states(self._connection, self._topology).values():
            self.encoder.lead(state.current)
        return [message for pack in packs for message in self.encoder.apart(pack)]

    def _count(
        self, messages: Sequence[Outgoing], outcome: Outcome, refusals: Sequence[Refusal]
    ) -> None:
        """Count records: all of the messages as outcome, but those refused as what they met."""
        if self._metrics is None:
            return
        counts: Counter[tuple[str, Outcome]] = Counter()
        for message in messages:
            counts[message.counted_as, outcome] += _records(message)
        for refusal in refusals:
            counts[refusal.message.counted_as, outcome] -= _records(refusal.message)
            counts[refusal.message.counted_as, refusal.outcome] += _records(refusal.message)
        for (exchange, told), count in counts.items():
            self._metrics.published(exchange, told, count)


def _records(message: Outgoing) -> int:
    return int(message.headers.get(RECORD_COUNT, 1))


def _stale(refusal: Refusal) -> bool:
    packed = refusal.message.content_type == PACK
    return packed and refusal.outcome == "returned" and refusal.message.exchange.endswith(".packs")


def raise_refused(refusals: Sequence[Refusal]) -> None:
    """Raise Unroutable or PublishError when there are refusals."""
    if not refusals:
        return
    failures = [(refusal.message.message_id, refusal.reason) for refusal in refusals]
    returned = all(refusal.outcome == "returned" for refusal in refusals)
    raise (Unroutable if returned else PublishError)(failures)
