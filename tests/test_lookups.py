"""Lookups of objects that do not exist, or belong to another connection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from feedbus import broker
from feedbus.broker import lookups
from feedbus.errors import Outage, UsageError
from servers import versions
from tests.small_topologies import queue
from tests.system_fixtures import systems_on
from tests.systems import System

make = systems_on("embedded", *versions.chosen())


def channels(connection: broker.Connection) -> set[int]:
    """Return the numbers of the channels that the client and the broker keep open."""
    return set(connection.connection.channels)


@pytest.mark.parametrize("look", [lookups.queue_exists, lookups.exchange_exists])
def test_a_lookup_of_what_is_missing_keeps_no_channel_open(
    make: Callable[..., System], look: Callable[..., bool]
) -> None:
    with broker.connect(make(queue()).topology) as connection:
        before = channels(connection)
        assert not look(connection, "nothing")
        assert channels(connection) == before


def test_a_refused_lookup_keeps_no_channel_open(make: Callable[..., System]) -> None:
    topology = make(queue()).topology
    with broker.connect(topology) as owner, broker.connect(topology) as connection:
        name = f"{topology.name}.own"
        owner.channel().queue_declare(name, exclusive=True)
        before = channels(connection)
        assert lookups.is_exclusive_to_another(connection, name)
        with pytest.raises(Outage):
            lookups.count_messages(connection, name)
        assert channels(connection) == before


def test_a_lock_that_another_holds_keeps_no_channel_open(make: Callable[..., System]) -> None:
    topology = make(queue()).topology
    with (
        broker.connect(topology) as holder,
        broker.connect(topology) as connection,
        broker.locked(holder, topology),
    ):
        before = channels(connection)
        with pytest.raises(UsageError), broker.locked(connection, topology, wait_seconds=0.3):
            pass
        assert channels(connection) == before
