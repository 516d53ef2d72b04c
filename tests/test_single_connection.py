"""A lost connection of feedbus is not opened again by Kombu: its lock is lost with it."""

from __future__ import annotations

import pytest

from feedbus import broker
from feedbus.broker.outages import drop_connection
from feedbus.errors import BrokerOutage
from servers import versions
from tests.small_topologies import queue
from tests.system_fixtures import systems_on

make = systems_on("embedded", versions.chosen()[-1])

WAYS = {
    "channel": lambda connection: connection.channel(),
    "default channel": lambda connection: connection.default_channel,
    "connection": lambda connection: connection.connection.channel(),
    "connect": lambda connection: connection.connect(),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_lost_connection_is_not_opened_again(make, way):
    topology = make(queue()).topology

    def use_after_loss() -> None:
        with (
            broker.connect(topology) as connection,
            broker.outage(connection, topology.broker_url),
            broker.locked(connection, topology),
        ):
            drop_connection(connection)
            WAYS[way](connection)

    with pytest.raises(BrokerOutage, match="the connection was lost"):
        use_after_loss()
