"""What one call of a handler publishes: encoded at once, sent after its transaction's commit."""

from __future__ import annotations

from feedbus.bus.sender import Sender, raise_refused
from feedbus.bus.spool import Spool
from feedbus.records.packs import Pack
from feedbus.store import Store
from feedbus.wire.envelope import Envelope

STREAM_RECORDS = 5_000  # at once: fewer would wait for the broker more often than they need


class Publications(Spool):
    """Messages that wait for a commit, and their rows in the outbox on a queue that says once."""

    def __init__(self, sender: Sender, store: Store, *, once: bool, stream: bool = False) -> None:
        """Collect nothing yet.

        Args:
            sender: what sends the messages.
            store: in whose outbox they are by the commit, so that a relay sends them should this
                process die before it has.
            once: whether they go into the outbox.
            stream: whether they are sent as they come, STREAM_RECORDS or more at once.

        """
        super().__init__()
        self._sender = sender
        self._store = store
        self._once = once
        self._stream = stream
        self._rows: list[int] = []
        self._waiting = 0

    def collect(self, exchange: str, pack: Pack, envelope: Envelope | None = None) -> None:
        """Take records that a bus publishes."""
        self.add(self._sender.encoder.encode(exchange, pack, envelope))
        if self._once:
            rows = ((pack.key(i), pack.payload(i), pack.ids[i]) for i in range(len(pack)))
            options = envelope.options() if envelope is not None else None
            self._rows.extend(self._store.outbox.put_many(exchange, rows, options))
        if self._stream:
            self._waiting += len(pack)
            if self._waiting >= STREAM_RECORDS:
                raise_refused(self._sender.send(self))
                self.clear()
                self._waiting = 0

    def send(self) -> None:
        """Send everything; when this returns, the broker has it.

        Raises:
            PublishError: the broker did not take it.

        """
        if self:
            raise_refused(self._sender.send(self))
        if self._rows:
            self._store.outbox.remove(self._rows)
