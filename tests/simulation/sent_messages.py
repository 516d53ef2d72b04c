"""The check that the broker has accepted what feedbus takes for sent.

The effects of records do not show every lost message: the same record can have been published
before, by a call whose confirm did not arrive.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from feedbus.broker.publisher import Publisher
from feedbus.broker.refused_messages import Refusal
from feedbus.bus.sender import Sender
from feedbus.records.packs import decode
from feedbus.wire import Outgoing
from feedbus.wire.constants import PACK
from tests.simulation.network import MessageKey
from tests.simulation.replacing import replaced
from tests.simulation.system import System


@contextmanager
def checked_sending(system: System) -> Iterator[None]:
    """Note each message that feedbus takes for sent, and that the broker has not accepted.

    The broker must accept it during the call. If the broker returns a pack of an old ring, it must
    accept each record of the pack instead.
    """
    send, send_window, network = Publisher.send, Sender._send_window, system.network

    def check(keys: Iterable[MessageKey], refusals: Sequence[Refusal], begin: int) -> None:
        refused = {_key_of(each.message) for each in refusals}
        system.history.lost_messages += [
            f"the message {key} is lost: feedbus takes it for sent"
            for key in keys
            if key not in refused and not network.has_accepted(key, begin)
        ]

    def checked_send(self: Publisher, messages: Sequence[Outgoing]) -> list[Refusal]:
        begin = network.accepted_count
        refusals = send(self, messages)
        check(map(_key_of, messages), refusals, begin)
        return refusals

    def checked_window(self: Sender, messages: Sequence[Outgoing]) -> list[Refusal]:
        begin = network.accepted_count
        refusals = send_window(self, messages)
        refused = {id(each.message) for each in refusals}
        for each in messages:
            is_whole = id(each) in refused or network.has_accepted(_key_of(each), begin)
            if each.content_type == PACK and not is_whole:
                check(_keys_of_records(each), refusals, begin)
        return refusals

    with (
        replaced(Publisher, "send", checked_send),
        replaced(Sender, "_send_window", checked_window),
    ):
        yield


def _key_of(message: Outgoing) -> MessageKey:
    return message.message_id or message.body, message.routing_key


def _keys_of_records(pack: Outgoing) -> list[MessageKey]:
    """Return the keys of the messages that contain one record of a pack each."""
    records = decode(pack.body, PACK, pack.message_id, pack.routing_key)
    return [(records.ids[index], records.key(index)) for index in range(len(records))]
