"""Store published messages, many in one transaction, and confirm each to its publisher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amqp.exceptions import ChannelError, NotFound, error_for_code

from feedbus.transports.sqlite.deadletter import put
from feedbus.transports.sqlite.message_conversion import Content
from feedbus.transports.sqlite.transactions import Transaction

NO_ROUTE = 312
BASIC_RETURN = (60, 50)

Events = Mapping[str, set[Callable[..., None]]]


@dataclass(frozen=True, slots=True)
class PublishedMessage:
    """A message that a client has published on a channel, and that is not stored yet.

    Attributes:
        tag: the delivery tag of its confirm; 0 if the channel is not in confirm mode.
        content: the message in the form in which the file stores it.
        message: the publisher's amqp Message; a return to the publisher contains it.
        mandatory: whether the message is returned if it matches no queue.
    """

    tag: int
    content: Content
    message: Any
    mandatory: bool


@dataclass(frozen=True, slots=True)
class Confirm:
    """The outcome of a published message: a confirm or a nack, which is reported to the publisher.

    Attributes:
        event: "basic_ack" for a confirm; "basic_nack" if a full queue has refused the message.
        tag: the delivery tag of the message.
        multiple: whether all earlier messages that have no outcome yet have the same outcome.
    """

    event: Literal["basic_ack", "basic_nack"]
    tag: int
    multiple: bool

    def report(self, events: Events) -> None:
        """Call the publisher's callbacks with the tag and `multiple`, as py-amqp does.

        Args:
            events: the callbacks of the channel for each event, such as "basic_ack".
        """
        for callback in list(events.get(self.event, ())):
            callback(self.tag, self.multiple)


@dataclass(frozen=True, slots=True)
class Returned:
    """The outcome of a mandatory message that matches no queue: it is returned to its publisher.

    As on RabbitMQ, the message is then confirmed, too.

    Attributes:
        outgoing: the message.
    """

    outgoing: PublishedMessage

    def report(self, events: Events) -> None:
        """Call the publisher's callbacks for returned messages, as py-amqp does.

        Args:
            events: the callbacks of the channel for each event, such as "basic_return".

        Raises:
            ChannelError: the publisher has registered no callback for returned messages.
        """
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

    Args:
        tx: the transaction.
        outgoing: the published messages, in the order of their publishing.

    Returns:
        The confirms, nacks and returns to report; and the error of the missing exchange, or None.
    """
    outcomes: list[Outcome] = []
    # Accepted messages in sequence are confirmed together, with the tag of the last one.
    accepted_tag = 0
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
