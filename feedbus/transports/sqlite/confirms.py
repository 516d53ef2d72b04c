"""Store published messages, many in one transaction, and confirm each to its publisher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amqp.exceptions import ChannelError, NotFound, error_for_code

from feedbus.transports.sqlite.deadletter import put
from feedbus.transports.sqlite.message_content import Content
from feedbus.transports.sqlite.transactions import Transaction

NO_ROUTE = 312
BASIC_RETURN = (60, 50)

Events = Mapping[str, set[Callable[..., None]]]


@dataclass(frozen=True, slots=True)
class PublishedMessage:
    """A published message.

    Attributes:
        tag: the delivery tag; 0 if the channel is not in confirm mode.
        content: the message in the form of the file.
        message: the amqp Message of the publisher, for its return.
        mandatory: whether the message is returned if it matches no queue.

    """

    tag: int
    content: Content
    message: Any
    mandatory: bool


@dataclass(frozen=True, slots=True)
class Confirm:
    """A confirm or nack of one message; with multiple, of all messages up to its tag."""

    event: Literal["basic_ack", "basic_nack"]
    tag: int
    multiple: bool

    def report(self, events: Events) -> None:
        """Call the callbacks for confirms or nacks, as py-amqp does."""
        for callback in list(events.get(self.event, ())):
            callback(self.tag, self.multiple)


@dataclass(frozen=True, slots=True)
class Returned:
    """A mandatory message that was returned because it matches no queue."""

    outgoing: PublishedMessage

    def report(self, events: Events) -> None:
        """Call the callbacks for returns, as py-amqp does; without one, raise ChannelError."""
        error = error_for_code(NO_ROUTE, "NO_ROUTE", BASIC_RETURN, ChannelError)
        callbacks = list(events.get("basic_return", ()))
        if not callbacks:
            raise error
        content = self.outgoing.content
        for callback in callbacks:
            callback(error, content.exchange, content.routing_key, self.outgoing.message)


Outcome = Confirm | Returned


def store(
    tx: Transaction, outgoing: Sequence[PublishedMessage]
) -> tuple[list[Outcome], NotFound | None]:
    """Put messages into their queues, up to the first one whose exchange does not exist.

    Returns:
        The confirms, nacks and returns; and the error of the missing exchange, or None.

    """
    outcomes: list[Outcome] = []
    accepted_tag = 0  # the last message of a sequence that is confirmed together
    failure = None
    for item in outgoing:
        content = item.content
        try:
            queues = tx.routes.route(content.exchange, content.routing_key, content.properties)
        except NotFound as error:
            failure = error
            break
        if not queues and item.mandatory:
            outcomes.append(Returned(item))
        if put(tx, content, queues):
            accepted_tag = item.tag
        elif item.tag:
            if accepted_tag:
                outcomes.append(Confirm("basic_ack", accepted_tag, multiple=True))
                accepted_tag = 0
            outcomes.append(Confirm("basic_nack", item.tag, multiple=False))
    if accepted_tag:
        outcomes.append(Confirm("basic_ack", accepted_tag, multiple=True))
    return outcomes, failure
