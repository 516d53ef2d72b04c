"""A publisher in a separate process: in each round, each of its keys gets its next number.

python -m tests.chaos.reshard.publishing KIND TOPOLOGY FIRST LAST ROUNDS RATE REPORTED STOP

KIND:
    bus: through a LiveBus, in packs; unconfirmed records are published again, as other messages.
    foreign: as a client that knows nothing of feedbus, in messages without an id.
    identified: the same with message ids; unconfirmed records are published again with their ids.
    web: by requests to a web process, which are repeated until they are answered.

While a file "pause" is in the folder of STOP, they begin no round.
A killed publisher continues with the round after the last round that it has reported.
FEEDBUS_CHAOS_COPIES sets how often each message is published, 1 by default.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feedbus import config
from feedbus.bus import LiveBus
from feedbus.errors import Outage

Pairs = list[tuple[dict[str, Any], str]]
AT_ONCE = 300
CONFIRM_SECONDS = 30.0
REQUEST_SECONDS = 30.0
PAUSE = "pause"
PAUSE_SECONDS = 0.05


def through_the_bus(path: Path) -> Callable[[Pairs], None]:
    """Publish in packs, as an application does."""
    bus = LiveBus(config.load(path))

    def publish(pairs: Pairs) -> None:
        while True:
            try:
                bus.publish_many("ring", pairs)
            except Outage:  # confirmed messages come twice then, in the same order
                time.sleep(0.2)
            else:
                return

    return publish


def through_the_web(path: Path) -> Callable[[Pairs], None]:
    """Ask a web process to publish, under a name by which it recognises a repetition."""
    port = int(os.environ["CHAOS_WEB_PORT"])

    def publish(pairs: Pairs) -> None:
        first = pairs[0][0]
        body = json.dumps({"name": f"{first['key']}:{first['number']}", "pairs": pairs})
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)
            try:
                connection.request("POST", "/", body)
                if connection.getresponse().status == http.client.NO_CONTENT:
                    return
            except (OSError, http.client.HTTPException) as error:
                sys.stderr.write(f"web publisher: {error!r}\n")
            finally:
                connection.close()
            time.sleep(0.2)

    return publish


class Foreign:
    """A client that knows only the name of an exchange of feedbus."""

    def __init__(self, path: Path, *, identified: bool = False) -> None:
        topology = config.load(path)
        self._url = topology.broker_url.reveal()
        self._exchange = f"{topology.name}.ring"
        self._identified = identified
        self._connection: Any = None

    def __call__(self, pairs: Pairs) -> None:
        """Publish pairs and wait for the confirms; publish unconfirmed pairs again."""
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
            from feedbus.transports.sqlite.connection import Connection
            from feedbus.transports.sqlite.connection_backend import open_file

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
            own = {"message_id": f"{key}:{payload['number']}"} if self._identified else {}
            message = amqp.Message(
                json.dumps(payload), content_type="application/json", delivery_mode=2, **own
            )
            self._tag += 1
            self._unconfirmed.add(self._tag)
            self._channel.basic_publish(message, self._exchange, key)
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._unconfirmed:
            if time.monotonic() > deadline:
                msg = f"{len(self._unconfirmed)} unconfirmed"
                raise TimeoutError(msg)
            try:
                self._connection.drain_events(timeout=1)
            except TimeoutError:
                continue


PUBLISHERS: dict[str, Callable[[Path], Callable[[Pairs], None]]] = {
    "bus": through_the_bus,
    "foreign": Foreign,
    "identified": partial(Foreign, identified=True),
    "web": through_the_web,
}


def main() -> None:
    """Publish until there are enough rounds and the file STOP exists."""
    kind, topology, first, last, rounds, rate, reported, stop = sys.argv[1:]
    keys = [f"key-{number}" for number in range(int(first), int(last))]
    copies = int(os.environ.get("FEEDBUS_CHAOS_COPIES", "1"))
    publish = PUBLISHERS[kind](Path(topology))
    number = begun = int(Path(reported).read_text()) if Path(reported).exists() else 0
    started = time.monotonic()
    pause = Path(stop).with_name(PAUSE)
    while number < int(rounds) or not Path(stop).exists():
        while pause.exists() and not Path(stop).exists():
            time.sleep(PAUSE_SECONDS)
        for start in range(0, len(keys), AT_ONCE):
            pairs = [({"key": key, "number": number}, key) for key in keys[start : start + AT_ONCE]]
            for _ in range(copies):
                publish(pairs)
        number += 1
        Path(reported + ".new").write_text(str(number))
        Path(reported + ".new").replace(reported)
        time.sleep(max(0.0, started + (number - begun) / float(rate) - time.monotonic()))


if __name__ == "__main__":
    main()
