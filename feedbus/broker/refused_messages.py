"""Messages that the broker did not accept, with the reasons; errors for programs that publish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from feedbus.errors import PublishError, Unroutable
from feedbus.wire import Outgoing

NACKED = "the broker refused the message (nack): a queue is full or cannot write to its disk"
HELD_BACK = "the broker refused an earlier message with the same routing key"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A message that the broker did not accept; a publisher returns it.

    Attributes:
        message: the published message.
        outcome: "returned" if no queue matched, "nacked" for any other reason.
        reason: the reason, as text for the operator.
        is_permanent: True if the broker would refuse the message again. This is so if the broker
            has closed the channel because of the message, or if the message cannot be encoded.
        pack: None if the caller sent the message itself. If the caller sent a pack for an old
            generation, a ring that was replaced, the broker returned the pack. Then the records of
            the pack were sent as single messages. In this case, `message` is such a single message,
            and `pack` is the pack of its record.
    """

    message: Outgoing
    outcome: Literal["returned", "nacked"]
    reason: str
    is_permanent: bool = False
    pack: Outgoing | None = None

    @property
    def original(self) -> Outgoing:
        """The message that the caller has given to the sender: for a record of a pack, the pack."""
        return self.pack or self.message


def hold_back(
    messages: Sequence[Outgoing], refusals: Sequence[Refusal]
) -> tuple[Sequence[Outgoing], list[Refusal]]:
    """Hold back messages that would overtake refused messages with the same routing key.

    A message is held back only if an earlier message with the same exchange and routing key was
    nacked or held back. Then a queue could not store the earlier message, but may accept it later.
    If no queue matches the earlier message, or if its refusal is permanent, another attempt would
    not help. So the earlier message holds back nothing.

    Args:
        messages: the messages to send next.
        refusals: the refusals of earlier messages.

    Returns:
        The messages to send, and the refusals of the other messages.

    """
    held_keys = {
        (message.exchange, message.routing_key)
        for refusal in refusals
        if refusal.reason in {NACKED, HELD_BACK}
        for message in (refusal.message, refusal.original)
    }
    if not held_keys:
        return messages, []
    sent: list[Outgoing] = []
    held: list[Refusal] = []
    for message in messages:
        if (message.exchange, message.routing_key) in held_keys:
            held.append(Refusal(message, "nacked", HELD_BACK))
        else:
            sent.append(message)
    return sent, held


def error_of(refusals: Sequence[Refusal]) -> PublishError:
    """Return the error for refused messages.

    Args:
        refusals: the messages that the broker did not accept; at least one.

    Returns:
        Unroutable if the broker has returned all of these messages, because no queue matched;
        otherwise PublishError.

    """
    failures = [(refusal.message.message_id, refusal.reason) for refusal in refusals]
    returned = all(refusal.outcome == "returned" for refusal in refusals)
    return (Unroutable if returned else PublishError)(failures)


def raise_refused(refusals: Iterable[Refusal]) -> None:
    """Raise an error for refused messages, so that the program that published them gets it.

    Args:
        refusals: the messages that the broker did not accept. If there are none, nothing is raised.

    Raises:
        Unroutable: the broker has returned all of these messages, because no queue matched.
        PublishError: the broker has refused a message for another reason.
    """
    refusal_list = list(refusals)
    if refusal_list:
        raise error_of(refusal_list)
