"""Publish what a request has stored: at once, or as soon as the broker is back."""

from __future__ import annotations

import json
import logging
import threading
from typing import Self

from feedbus.bus import LiveBus
from feedbus.errors import Outage, PublishError, UsageError
from feedbus.generations import establishment
from feedbus.store import Entry, Store, relay
from feedbus.topology import Topology

log = logging.getLogger("web")

LOOK_SECONDS = 30.0
AWAY_SECONDS = 1.0
GATHER_SECONDS = 0.05
IN_HAND_SECONDS = 5.0


class Posting:
    """Publishes rows of the outbox; the request that put them never fails for the broker.

    While the broker is away no request waits for it: the relay's thread tries on, publishes what
    was left, and only then do requests publish themselves again. That thread also removes what
    was published, many rows at once, so that no request waits for that either.
    """

    def __init__(self, topology: Topology, store: Store, bus: LiveBus) -> None:
        """Publish a store's outbox by this bus; the relay runs within a with statement."""
        self.store = store
        self._topology = topology
        self._bus = bus
        self._declared = False
        self._away = False
        self._published: list[int] = []
        self._wake = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._relay, name="relay")

    def publish(self, entry: Entry) -> None:
        """Publish a committed row of the outbox, or leave it to the relay."""
        if self._away:
            return
        try:
            payload = json.loads(entry.payload)
            self._bus.publish(entry.exchange, payload, entry.key, message_id=entry.message_id)
        except (PublishError, UsageError) as error:
            log.warning("event=unpublished row=%d error=%s", entry.id, one_line(error))
        except Exception as error:  # noqa: BLE001 -- what is stored is published later, whatever it is
            self._away = True
            self._bus.close()
            log.warning("event=broker_away error=%s", one_line(error))
        else:
            self._published.append(entry.id)
        self._wake.set()

    def __enter__(self) -> Self:
        """Start the relay's thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the relay's thread, after a last removal."""
        self._over.set()
        self._wake.set()
        self._thread.join()

    def _relay(self) -> None:
        patience = 0.0  # at the start, what an earlier process has left
        while not self._over.is_set():
            woken = self._wake.wait(patience)
            self._over.wait(GATHER_SECONDS)
            self._wake.clear()
            try:
                self._declare()
                self._remove_published()
                if self._away or not woken:
                    self._relay_once()
            except Exception as error:  # noqa: BLE001 -- without this thread no tweet would follow
                away = isinstance(error, Outage) or self.store.is_outage(error)
                log.log(
                    logging.INFO if away else logging.ERROR,
                    "event=relay_waits error=%s",
                    one_line(error),
                )
                patience = AWAY_SECONDS
                self._over.wait(AWAY_SECONDS)
            else:
                patience = LOOK_SECONDS
        try:
            self._remove_published()
        except Outage as error:
            log.warning("event=unremoved rows=%d error=%s", len(self._published), one_line(error))

    def _declare(self) -> None:
        """Declare the topology once, as consumers do: the web may be there before them."""
        if not self._declared:
            establishment.known(self._topology)
            self._declared = True

    def _relay_once(self) -> None:
        younger = 0.0 if self._away else IN_HAND_SECONDS
        count = relay(self.store, self._bus, older_than_seconds=younger)
        if count or self._away:
            log.info("event=relayed messages=%d", count)
        self._away = False

    def _remove_published(self) -> None:
        """Remove rows; should that fail they stay listed, and a repeat would be harmless."""
        ids = list(self._published)
        if ids:
            with self.store.transaction():
                self.store.outbox.remove(ids)
            del self._published[: len(ids)]


def one_line(error: BaseException) -> str:
    """Return an error's text as a log line takes it."""
    return " ".join(str(error).split())
