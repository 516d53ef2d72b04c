"""A request to a bus to publish messages, with its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from feedbus.broker.refused_messages import Refusal, raise_refused
from feedbus.errors import UsageError
from feedbus.records.packs import Pack
from feedbus.store.key_locks import Key
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK
from feedbus.wire.message_options import Envelope


def refuse_closed() -> NoReturn:
    """Raise the error of a bus that is used after its `with` block.

    The publishing methods of the buses call this.

    Raises:
        UsageError: always.

    """
    msg = (
        "the bus is closed, because its `with` block has ended: publish within the block, or create"
        " another bus with feedbus.connect() or connect_async()"
    )
    raise UsageError(msg)


@dataclass(slots=True, eq=False)
class Request:
    """The records of one publish call, and the outcome: the refused messages, or an error.

    Attributes:
        exchange: the name of the exchange in topology.toml.
        pack: the records.
        envelope: the options that the records share; None if there are none.
        messages: the encoded records, if they were encoded when publish() was called; else None.
            They are sent after the commit. The caller may have changed the payload by then.
        outcome: None before the request is sent. If the request failed as a whole, the outcome is
            an exception. Otherwise the outcome is a list of the messages that the broker has not
            accepted. The list is empty if the broker has confirmed all messages.

    """

    exchange: str
    pack: Pack
    envelope: Envelope | None = None
    messages: Sequence[Outgoing] | None = None
    outcome: list[Refusal] | Exception | None = None

    @property
    def keys(self) -> set[Key]:
        """The keys of the records, each as (exchange, routing key)."""
        return {(self.exchange, key) for key in self.pack.keys}

    def refused_keys(self) -> set[Key]:
        """Return the keys of the refused records, each as (exchange, routing key).

        If it is not known which records the broker has refused, the result has the keys of all
        records. SharedSender.send_together() can hold back later requests with these keys.
        """
        if not isinstance(self.outcome, list):
            return self.keys
        if not self.outcome:
            return set()
        if any(refusal.message.content_type == PACK for refusal in self.outcome):
            return self.keys  # it is not known which records were accepted
        ids = {refusal.message.message_id for refusal in self.outcome}
        pairs = zip(self.pack.keys, self.pack.ids, strict=True)
        return {(self.exchange, key) for key, message_id in pairs if message_id in ids}

    def error(self) -> Exception | None:
        """Return the error that raise_error() raises; None if the broker confirmed every record."""
        try:
            self.raise_error()
        except Exception as error:  # noqa: BLE001 -- the caller decides
            return error
        return None

    def raise_error(self) -> None:
        """Raise the error of a request that was sent; return if every record was confirmed.

        Raises:
            UsageError: there is no such exchange, or a record cannot be published.
            Unroutable: messages were returned, because no queue matches; the others were published.
            PublishError: the broker refused messages, for example because a queue is full.
            BrokerOutage: the broker was unavailable for too long; messages without a confirm may
                have arrived.

        """
        if isinstance(self.outcome, Exception):
            raise self.outcome
        raise_refused(self.outcome or [])
