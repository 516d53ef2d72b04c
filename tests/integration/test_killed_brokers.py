"""A RabbitMQ that is killed directly after a change keeps the confirmed messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from feedbus.broker import connecting, declarations
from feedbus.bus import LiveBus
from feedbus.generations import topology_setup
from feedbus.store.peewee import close_bound
from servers.rabbitmq import RabbitMQ
from tests.projects import PATIENCE_SECONDS, wait_until
from tests.small_topologies import BATCH, sharded
from tests.systems import System

pytestmark = pytest.mark.integration
MESSAGES = 200


@pytest.fixture(autouse=True)
def _closed_store():
    yield
    close_bound()


def test_a_broker_killed_just_after_a_switch_keeps_what_the_new_ring_has_confirmed(
    rabbitmq: RabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def shards(count: int):
        return sharded(count, type="quorum", single_active_consumer=True, batch=BATCH)

    system = System.at(tmp_path, shards(2), broker_url=rabbitmq.url)
    monkeypatch.setattr(declarations, "queue_written_seconds", connecting.queue_written_seconds)
    system.topology = replace(system.topology, queues={"shard": shards(3)})
    topology_setup.set_up(system.topology)
    with LiveBus(system.topology, timeout_seconds=PATIENCE_SECONDS) as bus:
        pairs = [({"n": number}, str(number)) for number in range(MESSAGES)]
        assert bus.publish_many("ring", pairs) == MESSAGES
    rabbitmq.kill()
    rabbitmq.start()
    wait_until(lambda: sum(system.ready().values()) == MESSAGES)
