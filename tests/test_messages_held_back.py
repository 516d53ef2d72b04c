"""Messages that are not sent, because a full queue has refused an earlier one with their key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker import publisher
from feedbus.broker.publisher import Publisher
from feedbus.broker.refused_messages import HELD_BACK, NACKED, Refusal
from feedbus.broker_names import Names
from feedbus.bus import sender
from feedbus.bus.sender import Sender
from feedbus.records.packs import pack_of_one
from feedbus.wire import Outgoing
from servers import versions
from tests.small_topologies import queue
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])


@pytest.mark.parametrize("module", [publisher, sender])
def test_a_refused_message_holds_back_the_later_messages_of_its_key(make, monkeypatch, module):
    options = {"max_length": 1, "overflow": "reject-publish", "routing_keys": ("a", "b")}
    system = make(queue(**options))
    names = Names(system.topology)
    work = names.queue(system.topology.consumer("work"))
    sending = Sender(system.topology, nacked_seconds=0.0)
    first, *later = messages(sending, "aabaa")
    try:
        assert sending.send([first]) == []
        send = Publisher._send_window

        def make_room(self: Publisher, window: Sequence[Outgoing]) -> list[Refusal]:
            refusals = send(self, window)
            with broker.connect(system.topology) as connection:
                connection.channel().queue_purge(work)
            return refusals

        monkeypatch.setattr(Publisher, "_send_window", make_room)
        monkeypatch.setattr(module, "WINDOW", 1)
        refusals = sending.send(later)
    finally:
        sending.close()
    reasons = [(refusal.message.message_id, refusal.reason) for refusal in refusals]
    assert reasons == [("m-1", NACKED), ("m-3", HELD_BACK), ("m-4", HELD_BACK)]


def test_refused_messages_are_published_again_in_their_order(make, monkeypatch):
    system = make(queue(max_length=3, overflow="reject-publish", routing_keys=("a",)))
    work = Names(system.topology).queue(system.topology.consumer("work"))
    sending = Sender(system.topology)
    publish, attempts = Publisher._publish, list[list[str]]()

    def make_room(self: Publisher, window: Sequence[Outgoing]) -> list[Refusal]:
        attempts.append([each.message_id for each in window])
        refusals = publish(self, window)
        with broker.connect(system.topology) as connection:
            connection.channel().queue_purge(work)
        return refusals[::-1]  # as if the negative confirms had arrived in this order

    try:
        assert sending.send(messages(sending, "aaa")) == []
        monkeypatch.setattr(Publisher, "_publish", make_room)
        assert sending.send(messages(sending, "aaa")) == []
    finally:
        sending.close()
    assert attempts == [["m-0", "m-1", "m-2"]] * 2


def messages(sending: Sender, keys: str) -> list[Outgoing]:
    """Return one message for each of these keys, with the ids m-0, m-1 and so on."""
    encode: Any = sending.encoder.encode
    return [
        message
        for number, key in enumerate(keys)
        for message in encode("work", pack_of_one(f"m-{number}", key, {"n": number}))
    ]
