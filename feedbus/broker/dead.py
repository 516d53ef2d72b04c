"""The dead letters of a queue: look at them, send them back, drop them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from feedbus import broker
from feedbus.broker import generations
from feedbus.broker.names import Names
from feedbus.topology import Queue, Topology
from feedbus.wire.constants import ATTEMPT, ERRORS, FAILED_AT, KEY, REASON


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter, and why it is one.

    Attributes:
        message_id: of the record, or of the message where its body could not be read.
        queue: as topology.toml names it.
        key: the routing key that it was published with.
        reason: what the handler, the validation or the broker said.
        attempts: how often it was tried.
        errors: each field's errors, where it did not validate.
        failed_at_microseconds: since the epoch; None where the broker dead-lettered it.
        content_type: of the body.
        body: as published.

    """

    message_id: str
    queue: str
    key: str
    reason: str
    attempts: int
    errors: dict[str, list[str]]
    failed_at_microseconds: int | None
    content_type: str
    body: bytes


@contextmanager
def opened(topology: Topology) -> Iterator[Any]:
    """Open a channel on which dead letters can be taken; those not settled go back in order."""
    generations.known(topology)
    connection = broker.connect(topology)
    try:
        with broker.outage(connection, topology.broker_url):
            yield connection.default_channel
    finally:
        connection.close()


def letters(channel: Any, topology: Topology, queue: Queue) -> Iterator[tuple[int, DeadLetter]]:
    """Take a queue's dead letters, oldest first, each with the delivery tag that settles it."""
    name = Names(topology).dead(queue)
    if not broker.queue_exists(channel.connection, name):
        return
    # No further than what is there now: what is sent back may fail again meanwhile.
    count = channel.queue_declare(name, passive=True).message_count
    for _ in range(count):
        message = channel.basic_get(name)
        if message is None:
            return
        yield message.delivery_tag, _read(queue, message)


def settle(
    channel: Any,
    topology: Topology,
    queue: Queue,
    chosen: Callable[[DeadLetter], bool],
    act: Callable[[DeadLetter], None],
) -> int:
    """Act on the chosen dead letters, then take each off its queue; return how many they were."""
    settled = 0
    for tag, letter in letters(channel, topology, queue):
        if chosen(letter):
            act(letter)
            channel.basic_ack(tag)
            settled += 1
    return settled


def _read(queue: Queue, message: Any) -> DeadLetter:
    headers = message.headers or {}
    # Where the broker dead-lettered it, headers are whatever its publisher made up.
    told = headers.get("x-death")
    deaths = told if isinstance(told, list) and told and isinstance(told[0], dict) else [{}]
    attempts, failed_at = headers.get(ATTEMPT), headers.get(FAILED_AT)
    body = message.body
    return DeadLetter(
        message_id=str(message.properties.get("message_id") or ""),
        queue=queue.name,
        key=str(headers.get(KEY, (deaths[0].get("routing-keys") or [""])[0])),
        reason=str(headers.get(REASON, f"broker: {deaths[0].get('reason', 'unknown')}")),
        attempts=attempts if isinstance(attempts, int) else 0,
        errors=_errors(headers.get(ERRORS)),
        failed_at_microseconds=failed_at if isinstance(failed_at, int) else None,
        content_type=str(message.properties.get("content_type") or ""),
        body=body if isinstance(body, bytes) else str(body).encode(),
    )


def _errors(told: object) -> dict[str, list[str]]:
    try:
        found = json.loads(str(told)) if told else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
