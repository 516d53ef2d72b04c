"""Each answer of the broker is assigned to the correct message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.refused_messages import NACKED, raise_refused
from feedbus.broker.unconfirmed_messages import UnconfirmedMessages
from feedbus.errors import PublishError, Unroutable
from feedbus.wire import Outgoing
from tests.small_topologies import queue
from tests.system_fixtures import closing_store
from tests.systems import System


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Any]:
    with closing_store():
        system = System.at(tmp_path, queue())
        with broker.connect(system.topology) as connection:
            yield connection.channel()


@pytest.fixture
def unconfirmed(channel: Any) -> UnconfirmedMessages:
    """Four published messages; the second and the third are equal."""
    found = UnconfirmedMessages(channel)
    for tag, name in enumerate(("a", "b", "b", "c"), 1):
        found.messages_by_tag[tag] = Outgoing("work", name, b"{}", None, name, {}, "live")
        found.last_tag = tag
    return found


def answer(channel: Any, event: str, *arguments: Any) -> None:
    for receive in channel.events[event]:
        receive(*arguments)


def returned(name: str) -> tuple[Any, ...]:
    message = SimpleNamespace(properties={"message_id": name}, body=b"{}")
    return (Exception("312 NO_ROUTE"), "work", name, message)


def test_a_confirm_of_several_answers_all_up_to_its_tag(channel, unconfirmed):
    answer(channel, "basic_ack", 3, True)
    assert [*unconfirmed.messages_by_tag] == [4]
    answer(channel, "basic_ack", 4, False)
    assert (unconfirmed.messages_by_tag, unconfirmed.refusals) == ({}, [])


def test_confirms_in_another_order_answer_only_their_messages(channel, unconfirmed):
    answer(channel, "basic_ack", 3, False)
    answer(channel, "basic_ack", 1, False)
    answer(channel, "basic_ack", 1, False)  # the broker sends the same answer again
    assert [*unconfirmed.messages_by_tag] == [2, 4]


def test_a_nack_refuses_its_message(channel, unconfirmed):
    answer(channel, "basic_nack", 4, False)
    (refusal,) = unconfirmed.refusals
    assert (refusal.message.message_id, refusal.outcome, refusal.reason) == ("c", "nacked", NACKED)
    with pytest.raises(PublishError):
        raise_refused(unconfirmed.refusals)


def test_a_returned_message_is_refused_when_its_confirm_arrives(channel, unconfirmed):
    answer(channel, "basic_return", *returned("c"))
    assert unconfirmed.refusals == []
    answer(channel, "basic_ack", 4, True)
    (refusal,) = unconfirmed.refusals
    assert (refusal.message.message_id, refusal.outcome) == ("c", "returned")
    assert "no queue of exchange 'work' is bound for the routing key 'c'" in refusal.reason
    with pytest.raises(Unroutable):
        raise_refused(unconfirmed.refusals)


def test_each_of_two_equal_messages_that_are_returned_is_refused_once(channel, unconfirmed):
    for _ in range(2):
        answer(channel, "basic_return", *returned("b"))
    answer(channel, "basic_ack", 4, True)
    assert [each.message.message_id for each in unconfirmed.refusals] == ["b", "b"]


def test_without_refusals_nothing_is_raised():
    raise_refused([])
