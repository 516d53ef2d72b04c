"""The bus of those who are no handlers: it publishes at once and returns when confirmed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

from feedbus.bus.arguments import check_columns, check_many, check_record
from feedbus.bus.encoding import columnar
from feedbus.bus.interface import Bus
from feedbus.bus.publisher import Refusal
from feedbus.bus.sender import Sender, raise_refused
from feedbus.errors import BrokerOutage, FeedbusError, UsageError
from feedbus.metrics import Metrics
from feedbus.records.packs import Pack, single
from feedbus.topology import Topology
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK

RECONNECT_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class _Asked:
    """What one thread publishes, and what came of it: what was refused, or why all of it was."""

    exchange: str
    pack: Pack
    answer: list[Refusal] | FeedbusError | None = None


class LiveBus(Bus):
    """A bus of its own connection, for any thread; it reconnects when the broker comes back.

    What several threads publish at once is sent together: they wait for one confirm, not in turn.
    """

    SLICE = 5_000
    TIMEOUT_SECONDS = 10.0
    CONFIRM_SECONDS = (2.0, 10.0)  # at least, at most: a node that dies may take confirms with it

    def __init__(
        self,
        topology: Topology,
        metrics: Metrics | None = None,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Connect at the first publish; timeout_seconds is how long the broker may be away.

        What is not confirmed within CONFIRM_SECONDS is sent again, under the same ids.
        """
        least, most = self.CONFIRM_SECONDS
        self._sender = Sender(
            topology,
            metrics,
            timeout_seconds=min(max(timeout_seconds, least), most),
            blocked_seconds=max(timeout_seconds, least),
            nacked_seconds=timeout_seconds,
        )
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._waiting: list[_Asked] = []

    def __enter__(self) -> Self:
        """Return the bus itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def publish(
        self,
        exchange: str,
        payload: Mapping[str, Any],
        key: str = "",
        *,
        message_id: str | None = None,
    ) -> None:
        """Publish one record; where a message_id is given, a repeat is known by it.

        Raises: as publish_many.
        """
        check_record(exchange, payload, key, message_id)
        self._send(exchange, single(message_id or uuid.uuid4().hex, key, payload))

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[Mapping[str, Any], str]],
    ) -> int:
        """Publish (payload, routing key) pairs; return how many the broker has confirmed.

        Raises:
            TypeError: an argument has a wrong type, or one is no such pair.
            Unroutable: messages came back; those beside them were published.
            PublishError: messages were refused.
            BrokerOutage: the broker was away for too long; what was not confirmed may have arrived.

        """
        check_many(exchange, pairs)
        origin, count, left = uuid.uuid4().hex, 0, iter(pairs)
        while run := list(islice(left, self.SLICE)):
            for pack in columnar(run, f"{origin}.{count}", first=count):
                self._send(exchange, pack)
            count += len(run)
        return count

    def publish_columns(
        self,
        exchange: str,
        keys: Sequence[str] | str,
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
    ) -> int:
        """Publish records by column; return how many the broker has confirmed."""
        check_columns(exchange, keys, columns, shared)
        pack = Pack.numbered(uuid.uuid4().hex, keys, shared, columns)
        if len(pack):
            self._send(exchange, pack)
        return len(pack)

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        with self._lock:
            self._sender.close()

    def _send(self, exchange: str, pack: Pack) -> None:
        asked = _Asked(exchange, pack)
        with self._asking:
            self._waiting.append(asked)
        with self._lock:
            if asked.answer is None:
                # What other threads ask for meanwhile goes out together, and shares one wait.
                with self._asking:
                    together, self._waiting = self._waiting, []
                # Whose sender failed, and left no answer, sends by itself.
                self._send_together(together if asked in together else [asked, *together])
        if isinstance(asked.answer, FeedbusError):
            raise asked.answer
        raise_refused(asked.answer or [])

    def _send_together(self, together: Sequence[_Asked]) -> None:
        plain: list[tuple[_Asked, Sequence[Outgoing]]] = []
        for asked in together:
            try:
                messages = self._sender.encoder.encode(asked.exchange, asked.pack)
            except UsageError as error:
                asked.answer = error
                continue
            if any(message.content_type == PACK for message in messages):
                # A pack may be taken apart on its way: what is refused then was nobody's message.
                asked.answer = self._sent(messages)
            else:
                plain.append((asked, messages))
        found = self._sent([message for _, messages in plain for message in messages])
        for asked, sent in plain:
            if isinstance(found, BrokerOutage):
                asked.answer = BrokerOutage(str(found))  # of its own: each thread raises it
            else:
                own = set(map(id, sent))
                asked.answer = [each for each in found if id(each.message) in own]

    def _sent(self, messages: Sequence[Outgoing]) -> list[Refusal] | BrokerOutage:
        """Send messages, again while the broker is away; return what was refused, or the outage."""
        deadline = time.monotonic() + self._timeout_seconds
        while True:
            try:
                return self._sender.send(messages)
            except BrokerOutage as error:
                if time.monotonic() > deadline:
                    return error
                time.sleep(RECONNECT_SECONDS)
