"""Send dead letters back to the queue that they came from, and to no other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from feedbus.broker.dead import DeadLetter
from feedbus.broker.names import Names
from feedbus.bus.sender import Sender, raise_refused
from feedbus.errors import InvalidBody
from feedbus.records.packs import decode, encode_payload
from feedbus.topology import Queue, Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import JSON, PACK


class Requeue:
    """Publishes a queue's dead letters anew, with no attempt counted."""

    def __init__(self, topology: Topology, queue: Queue) -> None:
        """Send to a queue; to the shard that owns the key now, where it has shards."""
        self._sender = Sender(topology)
        names = Names(topology)
        self._hashed = topology.exchanges[queue.exchange].hashed
        self._exchange = names.exchange(queue.exchange) if self._hashed else ""
        self._queue = f"{topology.name}.{queue.name}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._sender.close()

    def send(self, letter: DeadLetter) -> None:
        """Send one dead letter back; when this returns the broker has it.

        Raises:
            BrokerOutage: the broker is away.
            PublishError: the broker did not take it.

        """
        raise_refused(self._sender.send(self._messages(letter)))

    def _messages(self, letter: DeadLetter) -> Sequence[Outgoing]:
        key = letter.key if self._hashed else self._queue
        whole = Outgoing(self._exchange, key, letter.body, letter.content_type, letter.message_id)
        if letter.content_type != PACK or not self._hashed:
            return [whole]
        try:
            pack = decode(letter.body, PACK, letter.message_id, letter.key)
        except InvalidBody:
            return [whole]
        # Its records may belong to different shards by now.
        return [
            Outgoing(
                self._exchange,
                pack.key(index),
                encode_payload(pack.payload(index)),
                JSON,
                pack.ids[index],
            )
            for index in range(len(pack))
        ]
