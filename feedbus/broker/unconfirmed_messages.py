"""The messages of a channel that the broker has not answered yet, or has refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

from feedbus.broker.refused_messages import NACKED, Refusal
from feedbus.wire import Outgoing
from feedbus.wire.amqp_protocols import Channel


class UnconfirmedMessages:
    """The messages of one channel that the broker has not answered yet, by delivery tag.

    A publisher makes one such object for each channel that it opens. The constructor puts the
    channel into confirm mode. The class finds the message of a confirm by the delivery tag. Kombu's
    option confirm_publish does not: it waits after each message, and accepts any confirm as the
    confirm of that message.

    Args:
        channel: the channel, on which nothing was published yet.

    Attributes:
        messages_by_tag: maps delivery tags, in ascending order, to the messages without an answer.
        last_tag: the delivery tag of the last message that was published.
        refusals: the messages that the broker did not accept. The publisher empties the list before
            it publishes.
    """

    def __init__(self, channel: Channel) -> None:
        """Enable confirms on a new channel, and subscribe to its confirms and returns."""
        self.messages_by_tag: dict[int, Outgoing] = {}
        self.last_tag = 0
        self.refusals: list[Refusal] = []
        # The reasons of returned messages that are not confirmed yet, by delivery tag.
        self._returned: dict[int, str] = {}
        self._returned_tag = 0  # the tag of the last message that was returned
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)

    def _take_answered(self, tag: int, *, multiple: bool) -> list[int]:
        """Return the tags of the messages that a confirm answers; the caller removes them.

        Args:
            tag: the delivery tag in the confirm.
            multiple: whether the confirm also answers all messages with lower tags.

        """
        if not multiple:
            return [tag] if tag in self.messages_by_tag else []
        return list(takewhile(lambda waiting: waiting <= tag, self.messages_by_tag))

    def _on_ack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- py-amqp's signature
        for answered in self._take_answered(tag, multiple=multiple):
            message = self.messages_by_tag.pop(answered)
            if answered in self._returned:
                reason = self._returned.pop(answered)
                self.refusals.append(Refusal(message, "returned", reason))

    def _on_nack(self, tag: int, multiple: bool) -> None:  # noqa: FBT001 -- as above
        for answered in self._take_answered(tag, multiple=multiple):
            self._returned.pop(answered, None)
            self.refusals.append(Refusal(self.messages_by_tag.pop(answered), "nacked", NACKED))

    def _on_return(self, error: Exception, exchange: str, key: str, message: Any) -> None:
        """Register which message the broker returned; the confirm of the message follows.

        A return does not contain the delivery tag. So the method searches for the first message
        that has the exchange, the routing key and the id of the returned message. The broker
        returns messages in the order in which they were published, so the search begins after the
        message that was returned before. If no message is found, the method registers the first
        message without an answer. Otherwise the confirm that follows would count as an
        acceptance of the returned message.
        """
        identity = message.properties.get("message_id") or message.body
        tag = self._find_first(
            lambda each: (
                (each.exchange, each.routing_key, each.message_id or each.body)
                == (exchange, key, identity)
            )
        ) or self._find_first(lambda _: True)
        if tag is not None:
            self._returned_tag = tag
            self._returned[tag] = (
                f"no queue of exchange '{exchange}' is bound for the routing key '{key}' ({error})"
            )

    def _find_first(self, test: Callable[[Outgoing], bool]) -> int | None:
        """Return the tag of the first message that passes the test; None if there is none.

        Only messages without an answer after the last returned message are tested.
        """
        tags = range(self._returned_tag + 1, self.last_tag + 1)
        return next(
            (
                tag
                for tag in tags
                if tag in self.messages_by_tag and test(self.messages_by_tag[tag])
            ),
            None,
        )
