"""The dead letters of a queue: read, process and delete them."""

from __future__ import annotations

import calendar
import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, cast

from feedbus import broker
from feedbus.broker_names import Names
from feedbus.dead_letters.key_release import release
from feedbus.generations import topology_setup
from feedbus.printable import shortened
from feedbus.topology import Queue, Topology
from feedbus.wire import Delivery, Outgoing
from feedbus.wire.amqp_protocols import Channel
from feedbus.wire.constants import (
    ATTEMPT,
    DEATHS,
    ERRORS,
    FAILED_AT,
    KEY,
    REASON,
    SEALED,
    TRACEBACK,
)
from feedbus.wire.delivery import key_of, moment_of, text_of

# A line of a traceback: the name of the file, the number of the line, and the function.
FRAME = re.compile(r'^  File ".*?([^/"]+)", line (\d+), in (.+)$', re.MULTILINE)
SHOWN_CHARACTERS = 80  # the most characters of the reason, and of the payload, in repr()
DROPPED_AT_ONCE = 500  # the most dead letters whose keys drop() releases together


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, with the reason of its failure.

    A dead handler, the function that is called with each new dead letter of a queue, gets this
    object as its argument.

    Attributes:
        message_id: the id of the record, or of the message if its body could not be read.
        queue: the name of the queue in topology.toml.
        key: the routing key with which the message was published.
        reason: the reason that the handler, the validation or the broker gave.
        attempts: how often the handler was called for the record.
        errors: the errors of each field, if the record is not valid.
        failed_at_microseconds: the time of the failure, in microseconds since 1970; None if neither
            feedbus nor the broker has recorded it.
        content_type: the content type of the body.
        body: the published bytes.
        delivery: the delivered message of the dead-letter queue; in a dead handler, the delivery of
            the failed record.
        traceback: the end of the traceback of the handler's exception; "" if the handler has raised
            Reject or Retry, or if the validation or the broker is the reason.

    """

    __feedbus_parameter__: ClassVar[str] = "dead_letter"  # a dead handler's parameter

    message_id: str
    queue: str
    key: str
    reason: str
    attempts: int
    errors: dict[str, list[str]]
    failed_at_microseconds: int | None
    content_type: str
    body: bytes
    delivery: Delivery
    traceback: str = ""

    def __repr__(self) -> str:
        """Return the reason, the place of the exception and the beginning of the payload.

        If a test expects no dead letters and finds one, pytest shows this text. It is shorter than
        the text of a dataclass, which would contain the body and the headers several times.
        """
        places = FRAME.findall(self.traceback)
        shown = {
            "queue": self.queue,
            "key": self.key,
            "reason": shortened(self.reason, SHOWN_CHARACTERS),
            "attempts": self.attempts,
            "place": "{}:{} in {}".format(*places[-1]) if places else "",
        }
        fields = [f"{name}={value!r}" for name, value in shown.items() if value != ""]
        content = repr(self.payload if self.payload is not None else self.body)
        fields.append(f"payload={shortened(content, SHOWN_CHARACTERS)}")
        return f"DeadLetter({', '.join(fields)})"

    @property
    def payload(self) -> Any:
        """The body, decoded from JSON; None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


@contextmanager
def open_channel(topology: Topology) -> Iterator[Channel]:
    """Open a connection and a channel for a `with` block that reads dead letters.

    At the end of the block, dead letters that are not settled return to their queue.

    Args:
        topology: the topology. Its objects are declared if the broker has none of them.

    Raises:
        BrokerOutage: the broker is unavailable.

    """
    topology_setup.set_up_if_missing(topology)
    connection = broker.connect(topology)
    try:
        with broker.outage(connection, topology.broker_url):
            channel = cast("Channel", connection.default_channel)
            channel.auto_decode = False
            yield channel
    finally:
        connection.close()


def count(channel: Channel, topology: Topology, queue: Queue) -> int:
    """Return how many dead letters a queue has; 0 if it has no dead-letter queue on the broker.

    Args:
        channel: a channel of open_channel().
        topology: the topology of the queue.
        queue: the queue whose dead letters are counted.

    """
    return broker.count_messages(channel.connection, Names(topology).dead(queue)) or 0


def letters(channel: Channel, topology: Topology, queue: Queue) -> Iterator[tuple[int, DeadLetter]]:
    """Yield (delivery tag, dead letter) for each dead letter of a queue, the oldest first.

    The caller settles the dead letters on the channel, or leaves them: then they return to their
    queue at the end of the block of open_channel().

    Args:
        channel: a channel of open_channel().
        topology: the topology of the queue.
        queue: the queue whose dead letters are read.

    """
    name = Names(topology).dead(queue)
    # If the caller sends a dead letter back, it may fail again and become a new dead letter at the
    # end of the queue. So only as many dead letters are read as the queue has now.
    for _ in range(count(channel, topology, queue)):
        message = channel.basic_get(name)
        if message is None:
            return
        yield message.delivery_tag, read(queue, message)


def settle(
    channel: Channel,
    topology: Topology,
    queue: Queue,
    chosen: Callable[[DeadLetter], bool],
    act: Callable[[DeadLetter], None],
) -> int:
    """Process and acknowledge chosen dead letters of a queue, and return their number.

    Args:
        channel: a channel of open_channel().
        topology: the topology of the queue.
        queue: the queue whose dead letters are processed.
        chosen: returns whether a dead letter is processed.
        act: called with each of these dead letters before it is acknowledged.

    """
    settled = 0
    for tag, letter in letters(channel, topology, queue):
        if chosen(letter):
            act(letter)
            channel.basic_ack(tag)
            settled += 1
    return settled


def drop(
    channel: Channel,
    topology: Topology,
    queue: Queue,
    chosen: Callable[[DeadLetter], bool],
    note: Callable[[DeadLetter], None],
) -> int:
    """Delete some dead letters of a queue, and return their number.

    If a dead letter blocks its key (`block_on_dead`), the key is released before the dead letter is
    deleted. After a crash between the two steps, the dead letter still exists, and the call can be
    repeated. The keys of up to DROPPED_AT_ONCE dead letters are released together, because each
    release takes the topology's lock.

    Args:
        channel: a channel of open_channel().
        topology: the topology of the queue.
        queue: the queue whose dead letters are deleted.
        chosen: returns whether a dead letter is deleted.
        note: called with each of these dead letters before it is deleted.

    Raises:
        UsageError: another process holds the topology's lock.

    """
    dropped = 0
    all_chosen = (each for each in letters(channel, topology, queue) if chosen(each[1]))
    while some := list(islice(all_chosen, DROPPED_AT_ONCE)):
        if queue.block_on_dead:
            ids = [letter.message_id for _, letter in some]
            release(channel.connection, topology, queue, ids)
        for tag, letter in some:
            note(letter)
            channel.basic_ack(tag)
        dropped += len(some)
    return dropped


def of(queue: Queue, message: Outgoing, delivery: Delivery) -> DeadLetter:
    """Return the dead letter of a record that has just failed, for the dead handler.

    Args:
        queue: the queue of the record.
        message: the message that is published to the dead-letter queue.
        delivery: the delivery of the record.

    """
    headers = message.headers
    sealed = message.content_type == SEALED
    return DeadLetter(
        message_id=message.message_id,
        queue=queue.name,
        key=str(headers[KEY]),
        reason=str(headers[REASON]),
        attempts=int(headers[ATTEMPT]),
        errors=_errors(headers.get(ERRORS)),
        failed_at_microseconds=int(headers[FAILED_AT]),
        content_type=(delivery.content_type if sealed else message.content_type) or "",
        body=delivery.body if sealed else message.body,
        delivery=delivery,
        traceback=str(headers.get(TRACEBACK, "")),
    )


def read(queue: Queue, message: Any) -> DeadLetter:
    """Return the dead letter in a message of a dead-letter queue.

    Args:
        queue: the queue of the failed message.
        message: the amqp message, as the channel delivered it.

    """
    delivery = Delivery.of(message)
    headers, failed_at = delivery.headers, moment_of(delivery.headers.get(FAILED_AT))
    death = _death(headers)
    keys = death.get("routing-keys")
    key = text_of(keys[0]) if isinstance(keys, list) and keys else ""
    reason = headers.get(REASON, _broker_reason(str(death.get("reason", "unknown"))))
    if delivery.undecodable and REASON not in headers:
        reason = f"{reason}; cannot be decoded: {delivery.undecodable[0]}"
    return DeadLetter(
        message_id=delivery.message_id,
        queue=queue.name,
        key=key_of(headers, key),
        reason=str(reason),
        attempts=delivery.attempts,
        errors=_errors(headers.get(ERRORS)),
        failed_at_microseconds=_died_at(death) if failed_at is None else failed_at,
        content_type=delivery.content_type or "",
        body=delivery.body,
        delivery=delivery,
        traceback=text_of(headers.get(TRACEBACK, "")),
    )


def _broker_reason(reason: str) -> str:
    """Return the text of the reason for which the broker dead-lettered a message."""
    full = ", because the queue has reached its max_length" if reason == "maxlen" else ""
    return f"broker: {reason}{full}"


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the latest entry of the header x-death, in which the broker records dead-lettering.

    The result is {} if there is no such entry. Any publisher can write this header, so it can
    contain anything.
    """
    deaths = headers.get(DEATHS)
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


def _died_at(death: Mapping[str, Any]) -> int | None:
    """Return the time of an entry of x-death, in microseconds since 1970; None if it has none."""
    died_at = death.get("time")
    if not isinstance(died_at, dt.datetime):
        return None
    return calendar.timegm(died_at.utctimetuple()) * 1_000_000


def _errors(header: object) -> dict[str, list[str]]:
    """Return the errors of each field from the JSON in a header; {} if there are none."""
    try:
        found = json.loads(str(header)) if header else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        field: [str(text) for text in texts] if isinstance(texts, list) else [str(texts)]
        for field, texts in found.items()
    }
