"""Probes: how they return to the reader of a queue, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from feedbus import broker
from feedbus.broker.publisher import publish_all
from feedbus.generations.probes import Probes
from feedbus.store.peewee import close_bound
from tests.projects import PATIENCE_SECONDS
from tests.small_topologies import queue
from tests.systems import System


def test_a_probe_that_is_delivered_before_its_confirm_has_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = System.at(tmp_path, queue())
    close_bound()
    name = f"{system.topology.name}.work"
    with broker.connect(system.topology) as connection:
        channel: Any = connection.channel()
        probes = Probes(channel, name, pause_seconds=0.0)

        def came(message: Any) -> None:
            probes.count_if_probe(message.properties.get("message_id"))

        def publish_and_deliver(*arguments: Any, **options: Any) -> Any:
            refusals = publish_all(*arguments, **options)
            channel.connection.drain_events(timeout=PATIENCE_SECONDS)
            return refusals

        monkeypatch.setattr("feedbus.generations.probes.publish_all", publish_and_deliver)
        channel.basic_consume(name, callback=came, no_ack=True)
        probes.put_probe()
        assert not probes.is_pending
