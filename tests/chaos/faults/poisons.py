"""The row of poison messages: each becomes one dead letter, and other messages are handled."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedbus import broker
from feedbus.dead_letters.letters import DeadLetter
from feedbus.wire.constants import CONSUMER, EXCHANGE, JSON, PACK
from tests import raw_client as raw
from tests.chaos.faults.cells import Cell, run_loaded
from tests.chaos.faults.columns import Servers, started
from tests.chaos.faults.loaded_system import LoadedSystem, loaded
from tests.chaos.faults.results import Result
from tests.systems import publish_confirmed

HANDLER_TIMEOUT = "3s"
EVERY = 1_000  # records for one poison message
RETRIED = 3  # attempts of a record whose handler fails: two delays
LOST = "the process or its connection ended 5 times"


@dataclass(frozen=True, slots=True)
class Poison:
    """A kind of message that cannot be handled.

    Attributes:
        name: the name of the kind.
        body: the body of the message; KEY in it is replaced by the routing key.
        reason: a part of the reason of its dead letter.
        attempts: the number of attempts in its dead letter.
        content_type, content_encoding, headers: the properties of the message.
        identified: whether it has a message id.
        properties: its encoded properties, for messages that only RabbitMQ accepts.

    """

    name: str
    body: bytes
    reason: str
    attempts: int = 1
    content_type: str = JSON
    content_encoding: str = "utf-8"
    headers: Mapping[str, Any] = field(default_factory=dict)
    identified: bool = True
    properties: bytes | None = None


def _record(**fields: Any) -> bytes:
    return json.dumps({"key": "KEY", "number": 0} | fields).encode()


def _handled(name: str, attempts: int, reason: str, *, identified: bool = True) -> Poison:
    title = f"its handler {name}" + ("" if identified else ", without an id")
    return Poison(title, _record(poison=name), reason, attempts, identified=identified)


_PACK = {"origins": ["o"], "owners": [], "ordinals": [0], "shared": {}, "columns": {"number": [0]}}
POISONS = (
    Poison("not UTF-8", b"\xff\xfe", "not UTF-8"),
    Poison("not JSON", b"{", "not JSON"),
    Poison("no object", b"[1]", "expected a JSON object"),
    Poison(
        "nested too deeply", b'{"key": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"
    ),
    Poison("not a number", b'{"key": "KEY", "number": NaN}', "NaN is not a JSON number"),
    Poison("a wrong type", _record(number="1"), "number: expected int"),
    Poison("a missing field", b'{"key": "KEY"}', "number: missing required field"),
    Poison(
        "5,000 unknown fields",
        _record(number="1", **{f"f{n}": n for n in range(5_000)}),
        "number: expected int",
    ),
    Poison(
        "a field name of 200 kB",
        _record(**{"number": "1", "f" * 200_000: 1}),
        "number: expected int",
    ),
    Poison(
        "half of a surrogate pair",
        b'{"key": "+2AA-", "n"',
        "not text in utf-7",
        content_encoding="utf-7",
    ),
    Poison("no pack", b'{"columns": 1}', "not a pack", content_type=PACK),
    Poison(
        "a pack with a long key",
        json.dumps(_PACK | {"keys": ["k" * 300]}).encode(),
        "not a pack",
        1,
        PACK,
    ),
    Poison(
        "a pack with a huge ordinal",
        json.dumps(_PACK | {"keys": ["KEY"], "ordinals": [10**200]}).encode(),
        "not a pack",
        content_type=PACK,
    ),
    _handled("raises", RETRIED, "a record whose handler raises"),
    _handled("eats memory", RETRIED, "MemoryError"),
    _handled("exits", 1, LOST),
    _handled("exits", 1, LOST, identified=False),
    _handled("hangs", 1, LOST),
    _handled("hangs in C", 1, LOST),
)
ON_RABBITMQ = (
    Poison(
        "a timestamp of no calendar",
        _record(),
        "cannot be decoded",
        properties=raw.properties(
            {raw.HEADERS: raw.table([(b"when", b"T" + struct.pack(">Q", 1_772_000_000_000))])}
        ),
    ),
    Poison(
        "an id that is not UTF-8",
        _record(),
        "cannot be decoded",
        properties=raw.properties({8: raw.text(b"\xff\xed\xa0\x80")}),
    ),
)


@dataclass(slots=True)
class PoisonPublisher:
    """Publishes the kinds of poison one after the other, one message for so many records."""

    kinds: Sequence[Poison]
    every: float  # the part of the load after which a poison message is published
    port: int | None  # of RabbitMQ
    done: Counter[str] = field(default_factory=Counter)
    published: dict[str, Poison] = field(default_factory=dict)

    def strike(self, system: LoadedSystem, progress: float) -> None:
        """Publish the next message if the load has reached its position."""
        while len(self.published) < int(progress / self.every):
            kind = self.kinds[len(self.published) % len(self.kinds)]
            key = f"poison-{len(self.published)}"
            self.published[key] = kind
            self._publish(system, kind, key)
            system.expected_dead += 1
            self.done[kind.name] += 1

    def _publish(self, system: LoadedSystem, kind: Poison, key: str) -> None:
        exchange = f"{system.topology.name}.ring"
        body = kind.body.replace(b"KEY", key.encode())
        if kind.properties is not None:
            assert self.port is not None
            with raw.publisher(self.port) as publish:
                publish(exchange, raw.Raw(kind.properties, key.encode(), body))
            return
        with broker.connect(system.topology) as connection:
            channel: Any = connection.channel()
            message = channel.prepare_message(
                body,
                content_type=kind.content_type,
                content_encoding=kind.content_encoding,
                headers=dict(kind.headers),
                properties={"message_id": key} if kind.identified else {},
            )
            publish_confirmed(channel, message, exchange, key)

    def omitted(self) -> list[str]:
        """Return the kinds that the load was too short for."""
        return [f"not published: {each.name}" for each in self.kinds if not self.done[each.name]]


def run(cell: Cell, folder: Path) -> Result:
    """Publish poison among good records, and look at the dead letters."""
    with started(cell.where, folder) as servers:
        poisons = _publisher(cell, servers)
        with loaded(servers, CHAOS_HANDLER_TIMEOUT=HANDLER_TIMEOUT) as system:
            result = run_loaded(cell, system, poisons)
            wrong = letter_errors(system.dead_letters(), poisons.published)
            result.problems.extend(wrong)
            return result


def _publisher(cell: Cell, servers: Servers) -> PoisonPublisher:
    node = servers.rabbitmq
    kinds = [*POISONS, *ON_RABBITMQ] if node else [*POISONS]
    cell.random.shuffle(kinds)
    each_once = 1 / (len(kinds) + 1)
    every = each_once if cell.short else min(EVERY / cell.size, each_once)
    return PoisonPublisher(kinds, every, node.port if node else None)


def letter_errors(letters: Sequence[DeadLetter], published: Mapping[str, Poison]) -> list[str]:
    """Return the problems of the dead letters: only poison messages have one, and each has one."""
    wrong = []
    by_key: dict[str, list[DeadLetter]] = {}
    for letter in letters:
        by_key.setdefault(letter.key, []).append(letter)
    wrong += [f"an innocent dead letter: {key}" for key in by_key.keys() - published.keys()]
    for key, kind in published.items():
        found = by_key.get(key, [])
        if len(found) != 1:
            wrong.append(f"{key}, {kind.name}: {len(found)} dead letters")
            continue
        (letter,) = found
        headers = letter.delivery.headers
        if not letter.reason or kind.reason not in letter.reason:
            wrong.append(f"{key}, {kind.name}: its reason is {letter.reason!r}")
        if bool(letter.traceback) != (kind.attempts == RETRIED):  # its handler has raised
            wrong.append(f"{key}, {kind.name}: its traceback is {letter.traceback!r}")
        if letter.attempts != kind.attempts:
            wrong.append(f"{key}, {kind.name}: {letter.attempts} attempts")
        if headers.get(EXCHANGE) != "ring" or not str(headers.get(CONSUMER)).startswith("update"):
            wrong.append(f"{key}, {kind.name}: its origin is {dict(headers)}")
    return wrong
