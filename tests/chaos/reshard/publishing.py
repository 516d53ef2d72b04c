"""A publisher in a process of its own: round after round, each of its keys gets its next number.

python -m tests.chaos.reshard.publishing KIND TOPOLOGY FIRST LAST ROUNDS RATE REPORTED STOP
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.errors import Outage

Pairs = list[tuple[dict[str, Any], str]]
AT_ONCE = 300


def through_the_bus(path: Path) -> Callable[[Pairs], None]:
    """Publish in packs, as an application does."""
    bus = LiveBus(config.load(path))

    def publish(pairs: Pairs) -> None:
        while True:
            try:
                bus.publish_many("ring", pairs)
            except Outage:  # what was confirmed comes twice then, in the same order
                time.sleep(0.2)
            else:
                return

    return publish


class Foreign:
    """A client that knows nothing of feedbus but an exchange's name."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None

    def __call__(self, pairs: Pairs) -> None:
        """Publish pairs and wait for the confirms; begin anew with those not confirmed."""
        left = pairs
        while left:
            try:
                if self._connection is None:
                    self._open()
                self._send(left)
                left = []
            except Exception as error:  # noqa: BLE001 -- a broker that restarts fails in many ways
                sys.stderr.write(f"foreign publisher: {error!r}\n")
                self._connection = None
                time.sleep(0.2)

    def _open(self) -> None:
        if self._url.startswith("sqlite:"):
            from feedbus.transports.sqlite.backend import open_file
            from feedbus.transports.sqlite.connection import Connection

            path = Path("/" + self._url.partition("://")[2].lstrip("/"))
            self._connection = Connection(open_file(path))
        else:
            import amqp

            parts = urlsplit(self._url)
            self._connection = amqp.Connection(
                f"{parts.hostname}:{parts.port}", userid=parts.username, password=parts.password
            )
            self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self._unconfirmed: set[int] = set()
        self._tag = 0
        self._channel.events["basic_ack"].add(self._on_ack)

    def _on_ack(self, tag: int, multiple: bool) -> None:
        settled = {each for each in self._unconfirmed if each <= tag} if multiple else {tag}
        self._unconfirmed -= settled

    def _send(self, pairs: Pairs) -> None:
        import amqp

        for payload, key in pairs:
            message = amqp.Message(
                json.dumps(payload), content_type="application/json", delivery_mode=2
            )
            self._tag += 1
            self._unconfirmed.add(self._tag)
            self._channel.basic_publish(message, "arena.ring", key)
        deadline = time.monotonic() + 30
        while self._unconfirmed:
            if time.monotonic() > deadline:
                msg = f"{len(self._unconfirmed)} unconfirmed"
                raise TimeoutError(msg)
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                continue


def main() -> None:
    """Publish until there are enough rounds and somebody says stop."""
    kind, topology, first, last, rounds, rate, reported, stop = sys.argv[1:]
    path = Path(topology)
    keys = [f"key-{number}" for number in range(int(first), int(last))]
    url = config.load(path).broker_url.reveal()
    publish = through_the_bus(path) if kind == "bus" else Foreign(url)
    number, started = 0, time.monotonic()
    while number < int(rounds) or not Path(stop).exists():
        for start in range(0, len(keys), AT_ONCE):
            publish(
                [({"key": key, "number": number}, key) for key in keys[start : start + AT_ONCE]]
            )
        number += 1
        Path(reported + ".new").write_text(str(number))
        Path(reported + ".new").replace(reported)
        time.sleep(max(0.0, started + number / float(rate) - time.monotonic()))


if __name__ == "__main__":
    main()
