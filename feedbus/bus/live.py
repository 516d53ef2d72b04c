"""The bus of those who are no handlers: it publishes at once and returns when confirmed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Self

from feedbus.bus.encoding import columnar
from feedbus.bus.interface import Bus
from feedbus.bus.sender import Sender, raise_refused
from feedbus.errors import Outage
from feedbus.metrics import Metrics
from feedbus.records.packs import Pack, single
from feedbus.topology import Topology

RECONNECT_SECONDS = 0.1


class LiveBus(Bus):
    """A bus of its own connection, for any thread; it reconnects when the broker comes back."""

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
        self._send(exchange, single(message_id or uuid.uuid4().hex, key, payload))

    def publish_many(
        self,
        exchange: str,
        pairs: Iterable[tuple[str, Mapping[str, Any]]],
        *,
        causes: Sequence[int] | None = None,  # noqa: ARG002 -- nothing causes an outside publish
    ) -> int:
        """Publish pairs; return how many the broker has confirmed.

        Raises:
            Unroutable: messages came back; those beside them were published.
            PublishError: messages were refused.
            Outage: the broker was away for too long; what was not confirmed may have arrived.

        """
        origin, count, left = uuid.uuid4().hex, 0, iter(pairs)
        while run := list(islice(left, self.SLICE)):
            for pack in columnar(run, f"{origin}.{count}"):
                self._send(exchange, pack)
            count += len(run)
        return count

    def publish_columns(
        self,
        exchange: str,
        keys: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        shared: Mapping[str, Any],
        *,
        causes: Sequence[int] | None = None,  # noqa: ARG002 -- nothing causes an outside publish
    ) -> int:
        """Publish records by column; return how many the broker has confirmed."""
        if keys:
            self._send(exchange, Pack(uuid.uuid4().hex, range(len(keys)), keys, shared, columns))
        return len(keys)

    def close(self) -> None:
        """Close the connection; the next publish opens another."""
        with self._lock:
            self._sender.close()

    def _send(self, exchange: str, pack: Pack) -> None:
        deadline = time.monotonic() + self._timeout_seconds
        with self._lock:
            messages = self._sender.encoder.encode(exchange, pack)
            while True:
                try:
                    refusals = self._sender.send(messages)
                    break
                except Outage:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(RECONNECT_SECONDS)
        raise_refused(refusals)
